"""Measure how the memory of the program grows in a long conversation.

    python -m benchmarks.long_conversation                      # the model of the chat
    python -m benchmarks.long_conversation --model PATH --precisions float32,int8 --turns 100

Messages of different lengths, from a text of benchmarks/text, are answered in a context of 1,024
tokens, so that the oldest turns are soon dropped and the others are computed again. Each precision
runs in a process of its own. The table contains the resident memory after some turns, the maximum
of the whole conversation, its growth after the tenth turn, and the program's own estimate.
"""
# ruff: noqa: E402

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag

from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()  # before torch is imported

from benchmarks.quality import precisions
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.errors import UserError
from llama_cpu.generation.events import TurnsDropped
from llama_cpu.generation.sampling import Sampling
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.memory_estimate import estimate_memory
from llama_cpu.loading.plan import LoadPlan, plan_loading
from llama_cpu.system.memory import memory_report
from llama_cpu.weights.formats import FORMATS, format_of

TEXT = Path(__file__).parent / "text" / "opticks.txt"
CONTEXT = 1024
SHORTEST, LONGEST = 1, 60  # words of a message
MARKS = (1, 10, 50, 100, 200, 300)  # turns after which the memory is reported
SETTLED = 10  # the turn from which growth counts; by then all buffers have their size


@dataclass(frozen=True)
class Turn:
    """What one turn took: resident memory in bytes, and seconds."""

    resident: int  # after the answer
    most: int  # at any event during it
    seconds: float
    dropped: int  # messages that no longer fit


@dataclass(frozen=True)
class Result:
    """The conversation with one precision."""

    precision: str
    product: str  # the product that was chosen for the layers
    estimate: int  # bytes, by the program
    turns: list[Turn]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, metavar="PATH", help="default: as in the chat")
    parser.add_argument("--precisions", type=precisions, default=FORMATS)
    parser.add_argument("--turns", type=int, default=300, metavar="N")
    parser.add_argument("--answer_tokens", type=int, default=16, metavar="N")
    args = parser.parse_args()
    if min(args.turns, args.answer_tokens) < 1:
        parser.error("--turns and --answer_tokens must be at least 1.")
    results = []
    for precision in args.precisions:
        # Memory that a process freed stays with it, so the next precision gets another process.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            task = processes.submit(
                measure, args.model, precision.label, args.turns, args.answer_tokens
            )
            try:
                results.append(task.result())
            except UserError as error:
                sys.exit(f"Error: {error}")
    print(table(results))


def measure(model: Path | None, precision: str, turns: int, answer_tokens: int) -> Result:
    """Load the model and hold the conversation. Raises UserError if it cannot be loaded."""
    plan = plan_loading(model, precision=format_of(precision), max_seq_len=CONTEXT)
    loaded = load(plan, lambda done, total, name: None, Flag())
    done = []
    for number, turn in enumerate(converse(loaded, turns, answer_tokens), 1):
        done.append(turn)
        if number in MARKS:
            print(f"{precision}: {number} turns, {megabytes(turn.resident)} MB", file=sys.stderr)
    return Result(precision, plan.products.product.name, estimated(plan), done)


def estimated(plan: LoadPlan) -> int:
    config = plan.checkpoint.config
    return estimate_memory(config, plan.precision, plan.max_seq_len, plan.products).total


def converse(loaded: LoadedModel, turns: int, answer_tokens: int) -> Iterator[Turn]:
    """Hold a conversation, which is the same for every precision except for the answers."""
    template = choose_template(None, loaded.tokenizer, loaded.plan.name)
    session = ChatSession(loaded, template, Sampling(temperature=0.0), answer_tokens)
    try:
        for message in messages(turns):
            yield take_turn(session, message)
    finally:
        session.close()


def messages(count: int) -> list[str]:
    """Return pieces of the text, of different numbers of words."""
    words = TEXT.read_text(encoding="utf-8").split()
    numbers = random.Random(0)
    lengths = [numbers.randint(SHORTEST, LONGEST) for _ in range(count)]
    firsts = [numbers.randrange(len(words) - LONGEST) for _ in range(count)]
    return [
        " ".join(words[first : first + length])
        for first, length in zip(firsts, lengths, strict=True)
    ]


def take_turn(session: ChatSession, message: str) -> Turn:
    start = time.perf_counter()
    most = dropped = 0
    session.add_user(message)
    for event in session.answer(Flag()):
        most = max(most, memory_report().resident)
        if isinstance(event, TurnsDropped):
            dropped += event.count
    resident = memory_report().resident
    return Turn(resident, max(most, resident), time.perf_counter() - start, dropped)


def table(results: list[Result]) -> str:
    """Return a Markdown table with one row per precision; memory is in MB."""
    count = len(results[0].turns)
    marks = sorted({*(mark for mark in MARKS if mark <= count), count})
    head = ["precision", "product", *(f"after turn {mark}" for mark in marks)]
    head += ["maximum", f"growth after turn {SETTLED}", "estimate", "median turn"]
    rows = [head, ["---"] * len(head)]
    for result in results:
        row = [result.precision, result.product]
        row += [megabytes(result.turns[mark - 1].resident) for mark in marks]
        row += [megabytes(max(turn.most for turn in result.turns)), growth(result.turns)]
        row += [megabytes(result.estimate)]
        row += [f"{statistics.median(turn.seconds for turn in result.turns):.2f} s"]
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def growth(turns: list[Turn]) -> str:
    """Return how much more memory the last turn left than the tenth; a dash for fewer turns."""
    if len(turns) <= SETTLED:
        return "-"
    return f"{turns[-1].resident / turns[SETTLED - 1].resident - 1:+.1%}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}"


if __name__ == "__main__":
    main()
