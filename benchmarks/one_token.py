"""Say where the time of one token goes, by leaving parts of the pass out.

    python -m benchmarks.one_token                              # the demo model as its file is
    python -m benchmarks.one_token --model PATH --precision bf16 --context 1000

A pass that runs as one kernel (``model/fused.py``) takes its work from tables. Without products, or
with attention to one token only, it computes nonsense in less time; the difference is the time of
what is missing. All variants take turns, and the figures are medians. The last two lines are parts
of the others.
"""
# ruff: noqa: E402

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event as Flag

from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()  # before torch is imported

from llama_cpu.kernels import layout
from llama_cpu.kernels.memory import Table
from llama_cpu.loading.demo_model import fetch_demo_model
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import plan_loading
from llama_cpu.model.fused import FusedPass
from llama_cpu.weights.formats import format_of

TOKENS = 5  # of each variant in a round
PRODUCTS = (layout.WQKV, layout.WO, layout.W13, layout.W2)


def main() -> None:
    args = parse_arguments()
    plan = plan_loading(
        args.model or fetch_demo_model(),
        precision=format_of(args.precision),
        threads=args.threads,
        max_seq_len=args.context + 64,
    )
    loaded = load(plan, lambda done, total, name: None, Flag())
    few = loaded.model.few_tokens
    if not isinstance(few, FusedPass):
        raise SystemExit("This model does not run as one kernel here.")
    loaded.model.forward([300 + number % 1000 for number in range(args.context)], loaded.cache)
    seconds = measured(loaded, few, args.rounds)
    for line in lines(seconds, loaded):
        print(line)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.one_token",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="default: the demo model")
    parser.add_argument("--precision", default="file", help="default: as the file is")
    parser.add_argument("--context", type=int, default=100, help="tokens before it; default: 100")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=40)
    return parser.parse_args()


def measured(loaded: LoadedModel, few: FusedPass, rounds: int) -> dict[str, float]:
    """Return the median seconds of a token by variant, and of the kernel's call in the whole."""
    in_kernel: list[float] = []
    call = few._team._lead

    def timed(*arguments: int) -> None:
        began = time.perf_counter()
        call(*arguments)
        in_kernel.append(time.perf_counter() - began)

    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):
        for name, variant in VARIANTS.items():
            few._team._lead = timed if name == "whole" else call  # type: ignore[assignment]
            with variant(few):
                times = [token(loaded) for _ in range(TOKENS)]
            if number:  # the first round warms up
                seconds[name] += times[1:]
    few._team._lead = call
    return {name: statistics.median(times) for name, times in seconds.items()} | {
        "kernel": statistics.median(in_kernel)
    }


def token(loaded: LoadedModel) -> float:
    """Return the seconds of a pass over one token, which is then taken back."""
    length = len(loaded.cache)
    began = time.perf_counter()
    loaded.model.forward([500], loaded.cache)
    seconds = time.perf_counter() - began
    loaded.cache.truncate(length)
    return seconds


@contextmanager
def whole(few: FusedPass) -> Iterator[None]:
    yield


@contextmanager
def changed(tables: list[tuple[Table, int]], value: int) -> Iterator[None]:
    """Set fields of tables to a value for a while."""
    before = [table[field] for table, field in tables]
    for table, field in tables:
        table[field] = value
    yield
    for (table, field), old in zip(tables, before, strict=True):
        table[field] = old


def layers(few: FusedPass) -> range:
    return range(0, few.table[layout.N_LAYERS] * layout.LAYER_FIELDS, layout.LAYER_FIELDS)


@contextmanager
def without_products(few: FusedPass) -> Iterator[None]:
    fields = [(few._layers, first + each) for first in layers(few) for each in PRODUCTS]
    parts = [
        (table, product + layout.PART + part * layout.PART_FIELDS + layout.PIECES)
        for table, product in [*fields, (few.table, layout.OUTPUT)]
        for part in range(table[product + layout.PARTS])
    ]
    with changed(parts, 0):
        yield


@contextmanager
def attending_to_one(few: FusedPass) -> Iterator[None]:
    with changed([(few._layers, first + layout.WINDOW) for first in layers(few)], 1):
        yield


VARIANTS: dict[str, Callable[[FusedPass], AbstractContextManager[None]]] = {
    "whole": whole,
    "without products": without_products,
    "attending to one": attending_to_one,
}


def lines(seconds: dict[str, float], loaded: LoadedModel) -> Iterator[str]:
    total = seconds["whole"]
    products = total - seconds["without products"]
    yield f"one token after {len(loaded.cache)} others: {1e3 * total:.2f} ms"
    for name, part in [
        (f"products ({loaded.weights_bytes / products / 1e9:.1f} GB/s)", products),
        ("all the rest; in the caches, as no weights were read", seconds["without products"]),
        ("attention beyond one token", total - seconds["attending to one"]),
        ("outside of the kernel: Python, the embedding", total - seconds["kernel"]),
    ]:
        yield f"  {1e3 * part:7.3f} ms  {part / total:6.1%}  {name}"


if __name__ == "__main__":
    main()
