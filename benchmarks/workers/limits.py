"""Worker for the limits of the machine: memory bandwidth, and matrix products in three types.

It is not a side but runs in turn with the sides, so that conditions are the same. Each figure is
the best of a few calls of the fastest operator.
"""

import time
from collections.abc import Callable

from benchmarks.workers.protocol import Options, Run, Task, Times, serve
from llama_cpu.system.process import prepare_for_torch

BYTES = 1 << 30  # more than any processor's cache
ROWS, INNER, COLUMNS = 1024, 4096, 4096
TRIES = 3


def load(options: Options) -> tuple[str, Run]:
    prepare_for_torch()
    import torch

    torch.set_num_threads(options.threads)
    left, right = torch.randn(ROWS, INNER), torch.randn(COLUMNS, INNER)
    left_bf16, right_bf16 = left.bfloat16(), right.bfloat16()
    left_int8, right_int8 = (
        matrix.mul(30).clamp(-127, 127).to(torch.int8) for matrix in (left, right)
    )
    works: dict[str, tuple[float, Callable]] = {
        "read": (BYTES, memory_reader()),
        "float32": (2 * ROWS * INNER * COLUMNS, lambda: left @ right.T),
        "bf16": (2 * ROWS * INNER * COLUMNS, lambda: left_bf16 @ right_bf16.T),
        "int8": (2 * ROWS * INNER * COLUMNS, lambda: torch._int_mm(left_int8, right_int8.T)),
    }

    def run(task: Task) -> Times:
        rates = {name: amount / best(work) for name, (amount, work) in works.items()}
        return Times(0.0, [], rates)

    return f"torch {torch.__version__}", run


def memory_reader() -> Callable:
    """Return a function that reads BYTES of memory."""
    import torch

    values = torch.randn(BYTES // 4 // INNER, INNER)
    vector = torch.randn(INNER)
    return lambda: torch.mv(values, vector)


def best(work: Callable) -> float:
    """Return the seconds of the fastest of TRIES calls."""
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    serve(load)
