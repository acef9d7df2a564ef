"""Worker for the limits of the machine: memory bandwidth, and matrix products in three types.

It is not a side but runs in turn with the sides, so that conditions are the same. Each figure is
the best of a few calls of the fastest way (llama_cpu/bench/machine_speed.py).
"""

import os

from benchmarks.workers.protocol import Options, Run, Task, Times, serve
from llama_cpu.system.process import prepare_for_torch


def load(options: Options) -> tuple[str, Run]:
    prepare_for_torch()
    os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)  # read when numpy is imported
    import torch

    from llama_cpu.bench.machine_speed import MemoryReader, fastest_products

    reader, products = MemoryReader(options.threads), fastest_products(options.threads)
    ways = {"read": reader.way} | {name: product.way for name, product in products.items()}

    def run(task: Task) -> Times:
        rates = {name: product() for name, product in products.items()}
        return Times(0.0, [], {"read": reader.best()} | rates)

    found = ", ".join(f"{name} by {way}" for name, way in ways.items())
    return f"{found} (torch {torch.__version__})", run


if __name__ == "__main__":
    serve(load)
