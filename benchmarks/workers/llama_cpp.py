"""Worker for llama.cpp through llama-cpp-python: a GGUF file, defaults except for the threads."""

import time

from benchmarks.workers.protocol import Options, Run, Task, Times, prompt_ids, serve

BATCH = 512


class LlamaCpp:
    """One model with its context; greedy."""

    def __init__(self, options: Options) -> None:
        import llama_cpp
        import numpy as np

        self.np, self.api = np, llama_cpp
        if options.is_plain:
            _without_repacking(llama_cpp)
        self.model = llama_cpp.Llama(
            options.model,
            n_ctx=options.context,
            n_batch=BATCH,
            n_ubatch=BATCH,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            flash_attn=True,  # the default of llama.cpp where supported, but not of the binding
            verbose=False,
        )
        self.context = self.model.ctx

    def run(self, task: Task) -> Times:
        memory = self.api.llama_get_memory(self.context)
        self.api.llama_memory_seq_rm(memory, 0, task.keep, -1)
        ids = prompt_ids(task.prompt)[task.keep :]
        began = time.perf_counter()
        token = self.read(ids)
        prefill = time.perf_counter() - began
        decode = []
        for _ in range(task.decode):
            began = time.perf_counter()
            token = self.read([token])
            decode.append(time.perf_counter() - began)
        return Times(prefill, decode)

    def read(self, ids: list[int]) -> int:
        """Process tokens and return the most probable next token."""
        for first in range(0, len(ids), BATCH):
            part = ids[first : first + BATCH]
            tokens = (self.api.llama_token * len(part))(*part)
            batch = self.api.llama_batch_get_one(tokens, len(part))
            if self.api.llama_decode(self.context, batch) != 0:
                raise RuntimeError("llama_decode failed")
        logits = self.api.llama_get_logits_ith(self.context, -1)
        return int(self.np.ctypeslib.as_array(logits, (self.model.n_vocab(),)).argmax())


def _without_repacking(api) -> None:
    """Turn off repacked weights, and with them AMX, whose tiles some builds set up wrongly.

    See ggml-org/llama.cpp, pull request 26954. The binding has no option for it.
    """
    defaults = api.llama_model_default_params

    def params():
        values = defaults()
        values.use_extra_bufts = False
        return values

    api.llama_cpp.llama_model_default_params = params


def load(options: Options) -> tuple[str, Run]:
    side = LlamaCpp(options)
    return f"llama-cpp-python {side.api.__version__}", side.run


if __name__ == "__main__":
    serve(load)
