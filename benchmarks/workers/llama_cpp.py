"""Worker for llama.cpp through llama-cpp-python: a GGUF file, defaults except for the threads."""

import time

from benchmarks.workers.protocol import Options, Run, Task, Times, prompt_ids, serve
from llama_cpu.bench.llama_cpp_worker import LlamaCpp


def load(options: Options) -> tuple[str, Run]:
    model = LlamaCpp(options.model, options.context, options.threads, options.is_plain)

    def run(task: Task) -> Times:
        model.keep(task.keep)
        ids = prompt_ids(task.prompt)[task.keep :]
        began = time.perf_counter()
        token = model.read(ids)
        prefill = time.perf_counter() - began
        decode = []
        for _ in range(task.decode):
            began = time.perf_counter()
            token = model.read([token])
            decode.append(time.perf_counter() - began)
        return Times(prefill, decode)

    return f"llama-cpp-python {model.api.__version__}", run


if __name__ == "__main__":
    serve(load)
