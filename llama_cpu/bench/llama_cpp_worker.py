"""Worker that runs a GGUF file in llama.cpp, through llama-cpp-python.

A process of its own, so that its crash or its threads do not disturb. PyTorch is not imported.
"""

import time
from typing import Any

from llama_cpu.bench.worker import Answer, serve

BATCH = 512  # tokens that are processed at once


class LlamaCpp:
    """One model with its context, with the defaults of llama.cpp except for the threads."""

    def __init__(self, path: str, context: int, threads: int, is_plain: bool = False) -> None:
        """``is_plain``: turn off code that crashes on some machines. Raises ImportError."""
        import llama_cpp
        import numpy as np

        self.numpy, self.api = np, llama_cpp
        if is_plain:
            _without_repacking(llama_cpp)
        self.model = llama_cpp.Llama(
            path,
            n_ctx=context,
            n_batch=BATCH,
            n_ubatch=BATCH,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,  # the default of llama.cpp where supported, but not of the binding
            verbose=False,
        )
        self.context = self.model.ctx

    def keep(self, tokens: int) -> None:
        """Remove all but the first ``tokens`` tokens from the KV cache."""
        memory = self.api.llama_get_memory(self.context)
        self.api.llama_memory_seq_rm(memory, 0, tokens, -1)

    def read(self, ids: list[int]) -> int:
        """Process tokens and return the most probable next token."""
        for first in range(0, len(ids), BATCH):
            part = ids[first : first + BATCH]
            tokens = (self.api.llama_token * len(part))(*part)
            batch = self.api.llama_batch_get_one(tokens, len(part))
            if self.api.llama_decode(self.context, batch) != 0:
                raise RuntimeError("llama_decode failed")
        logits = self.api.llama_get_logits_ith(self.context, -1)
        return int(self.numpy.ctypeslib.as_array(logits, (self.model.n_vocab(),)).argmax())


def _without_repacking(api: Any) -> None:
    """Turn off repacked weights, and with them AMX, whose tiles some builds set up wrongly.

    See ggml-org/llama.cpp, pull request 26954. The binding has no option for it.
    """
    defaults = api.llama_model_default_params

    def params() -> Any:
        values = defaults()
        values.use_extra_bufts = False
        return values

    api.llama_cpp.llama_model_default_params = params


def load(options: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    """Load the model with the options of ``LlamaCpp``; ``prompt`` are the token ids to read."""
    prompt: list[int] = options.pop("prompt")
    model = LlamaCpp(**options)
    cached = 0  # tokens of the prompt in the KV cache

    def prefill(tokens: int) -> float:
        nonlocal cached
        cached = 0
        model.keep(0)
        began = time.perf_counter()
        model.read(prompt[:tokens])
        cached = tokens
        return time.perf_counter() - began

    def decode(context: int, passes: int) -> list[float]:
        nonlocal cached
        model.keep(min(cached, context))
        if cached < context:
            model.read(prompt[cached:context])
        cached = context
        seconds, token = [], prompt[context]
        for _ in range(passes):
            began = time.perf_counter()
            token = model.read([token])
            seconds.append(time.perf_counter() - began)
        return seconds

    def answer(question: dict[str, Any]) -> Any:
        if question["what"] == "prefill":
            return prefill(question["tokens"])
        return decode(question["context"], question["passes"])

    return {"version": f"llama-cpp-python {model.api.__version__}"}, answer


if __name__ == "__main__":
    serve(load)
