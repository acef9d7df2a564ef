"""Measure the time per token of the demo model alone and while other programs want the cores.

    python -m benchmarks.busy                       # each weight format, two busy loops
    python -m benchmarks.busy --precisions int8 --rounds 8 --loops 2

In turns, the model generates tokens alone, and beside processes that do nothing but count. The
table gives the median, the 95th percentile and the maximum of the time per token of all rounds, and
the ratio of the two. With as many loops as cores, a fair system leaves the model half of the time,
so a ratio of 2 is expected and more is lost by waiting; see ``prepare_for_torch``.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.__main__ import PRECISIONS, some_of
from benchmarks.sides import Side, opened
from benchmarks.workers.protocol import Options, Task
from llama_cpu.loading.demo_model import fetch_demo_model
from llama_cpu.system.processor import physical_cores

PROMPT = 100
CONTEXT = 2112
HEAD = ("precision", "ms per token", "alone", "busy", "ratio")


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep ``count`` processes counting."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    args = parse_arguments()
    print_cells(*HEAD)
    print_cells(*["---"] * len(HEAD))
    for precision in args.precisions:
        options = Options(str(fetch_demo_model()), precision, args.threads, CONTEXT)
        with opened(Side("ours", options)) as ours:
            alone, busy = take_turns(ours, args.rounds, args.loops, args.tokens)
        for name, mine, theirs in zip(FIGURES, figures(alone), figures(busy), strict=True):
            cells = (f"{1e3 * mine:.1f}", f"{1e3 * theirs:.1f}", f"{theirs / mine:.2f}")
            print_cells(precision, name, *cells)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.busy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64, help="tokens in each turn (default: 64)")
    parser.add_argument("--loops", type=int, default=2, help="busy processes (default: 2)")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument(
        "--precisions", type=some_of(PRECISIONS), default=PRECISIONS, metavar="NAME,..."
    )
    return parser.parse_args()


def take_turns(ours: Side, rounds: int, loops: int, tokens: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each token alone, and of each token beside busy loops."""
    task = Task(PROMPT, tokens)
    ours.run(task)  # to warm up
    alone: list[float] = []
    busy: list[float] = []
    for _ in range(rounds):
        alone += ours.run(task).decode
        with busy_loops(loops):
            busy += ours.run(task).decode
    return alone, busy


FIGURES = ("median", "95th percentile", "maximum")


def figures(seconds: list[float]) -> tuple[float, float, float]:
    """Return the median, the 95th percentile and the maximum."""
    ordered = sorted(seconds)
    p95 = ordered[-(-95 * len(ordered) // 100) - 1]
    return statistics.median(ordered), p95, ordered[-1]


def print_cells(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
