"""The protocol of the worker processes: one JSON object per line. Standard library only.

A worker is started as ``python -m benchmarks.workers.NAME OPTIONS`` and answers with
``{"version": ...}`` once its model is loaded, or with ``{"error": ...}``. After that, each line of
input is a Task, and each answer is a Times or an error. A worker is idle while it waits for input.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Options:
    """The model that a worker loads, and how."""

    model: str = ""  # a path; a worker stores its converted copy beside it
    precision: str = "float32"  # ours: the label of a format; a peer's: its own name (peers.py)
    threads: int = 1
    context: int = 4096  # tokens that the KV cache must have room for
    config: dict = field(default_factory=dict)  # the fields of the model's ModelConfig
    is_plain: bool = False  # whether to turn off code that is known to crash on some machines


@dataclass(frozen=True)
class Task:
    """Keep ``keep`` tokens of the last task's prompt, read up to ``prompt``, generate ``decode``.

    The tokens of the prompt are those of ``prompt_ids``. For our engine only: ``rows`` is the
    number of rows of each decode pass, with ``rows`` - 1 wrong draft tokens; with ``reads`` the
    memory bandwidth is measured between the tokens.
    """

    prompt: int
    decode: int = 0
    keep: int = 0
    rows: int = 1
    reads: bool = False


@dataclass(frozen=True)
class Times:
    """The times of a task in seconds."""

    prefill: float  # time to the first token
    decode: list[float]  # time of each further token
    figures: dict = field(default_factory=dict)  # our engine: bytes; limits: rates per second


Run = Callable[[Task], Times]


def prompt_ids(count: int) -> list[int]:
    """Return the prompt, which is the same for every side and has no control tokens."""
    return [300 + number * 7919 % 20000 for number in range(count)]


def serve(load: Callable[[Options], tuple[str, Run]]) -> None:
    """Load with the options of the command line, then run the tasks from standard input.

    ``load`` returns the library's version and a function that runs a task.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that a library prints must not be read as an answer

    def answer(value: dict) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        version, run = load(Options(**json.loads(sys.argv[1])))
    except Exception as error:
        answer({"error": describe(error)})
        return
    answer({"version": version})
    for line in sys.stdin:
        try:
            answer(asdict(run(Task(**json.loads(line)))))
        except Exception as error:
            answer({"error": describe(error)})


def describe(error: Exception) -> str:
    """Return a description of the error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:200]}".removesuffix(": ")
