"""``llama-cpu bench``: the speed and the memory of a model on this machine."""

import argparse
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from llama_cpu.cli.options import add_model_arguments, positive

if TYPE_CHECKING:  # they import PyTorch, which --help does not need
    from llama_cpu.bench.report import Report
    from llama_cpu.loading.plan import LoadPlan
    from llama_cpu.weights.choice import MeasuredOperators

_CONTEXTS = (100, 2000, 8000)  # tokens
_ROUNDS = 3


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--contexts",
        type=_contexts,
        default=_CONTEXTS,
        metavar="N,...",
        help="lengths in tokens after which decode is measured, as far as the model's context "
        f"allows (default {','.join(map(str, _CONTEXTS))})",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=_ROUNDS,
        metavar="N",
        help=f"number of measurements, whose median counts (default {_ROUNDS})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_model_arguments(parser)


def _contexts(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def run_bench(args: argparse.Namespace) -> int:
    """Measure, and print the table or one JSON object. Returns the exit code.

    After Ctrl+C during the measurements, what was measured so far is printed.
    """
    from llama_cpu.bench.measure import Bench
    from llama_cpu.bench.report import Report, work_of
    from llama_cpu.cli.progress import load_with_progress, status
    from llama_cpu.loading.load import load
    from llama_cpu.loading.plan import memory_of
    from llama_cpu.weights.choice import stored_operators

    operators = stored_operators(args.retune)
    with status() as say:
        say("Opening the model and choosing the matrix products")
        plan = _plan(args, operators)
    estimate, work = memory_of(plan), work_of(plan)  # before loading releases the tensors
    loaded = load_with_progress(plan, partial(load, plan))
    is_stopped = False
    with status() as say:
        bench = Bench(loaded, work, args.rounds, say)
        try:
            bench.run(args.contexts)
        except KeyboardInterrupt:
            is_stopped = True
    report = Report.of(loaded, estimate, operators, bench.results, is_stopped)
    _print(report, args.json)
    if is_stopped:
        raise KeyboardInterrupt  # reported as for every command
    return 0


def _plan(args: argparse.Namespace, operators: "MeasuredOperators") -> "LoadPlan":
    """Plan the model alone: its passes are measured without speculative decoding."""
    from llama_cpu.loading.demo_model import demo_notice
    from llama_cpu.loading.plan import plan_from_arguments

    if args.lookup or args.draft_ckpt_dir is not None:
        print("Note: speculative decoding is not measured.", file=sys.stderr)
    alone = argparse.Namespace(**{**vars(args), "lookup": False, "draft_ckpt_dir": None})
    plan = plan_from_arguments(alone, operators)
    if plan.is_demo:
        print(demo_notice(), file=sys.stderr)
    return plan


def _print(report: "Report", as_json: bool) -> None:
    from llama_cpu.bench.table import lines

    if as_json:
        print(json.dumps(report.as_object()))
    else:
        print("\n".join(lines(report)))
