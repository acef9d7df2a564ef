"""What a worker process reads and answers: one JSON object a line. Standard library only.

A worker is started as ``python -m benchmarks.workers.NAME OPTIONS`` and answers with
``{"version": ...}`` once its model is loaded, or with ``{"error": ...}``. Then each line is a Task
and each answer a Times, or an error. A worker that waits for the next line does nothing.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Options:
    """What a worker loads, and how."""

    model: str = ""  # a path; what a worker converts it to, it keeps beside it
    precision: str = "float32"  # or bf16, int8
    threads: int = 1
    context: int = 4096  # tokens that the KV cache must have room for
    config: dict = field(default_factory=dict)  # of the model: the fields of ModelConfig
    is_plain: bool = False  # without what is known to crash on some machines


@dataclass(frozen=True)
class Task:
    """Keep ``keep`` tokens of the last task's prompt, read up to ``prompt``, generate ``decode``.

    The prompt's tokens are those of ``prompt_ids``. Of our engine only: with ``rows`` as many
    tokens are proposed in each pass, all of them wrong; with ``reads`` memory is read between the
    tokens, for its speed in the same moments.
    """

    prompt: int
    decode: int = 0
    keep: int = 0
    rows: int = 1
    reads: bool = False


@dataclass(frozen=True)
class Times:
    """Seconds until the first token was there, and of each one after it."""

    prefill: float
    decode: list[float]
    figures: dict = field(default_factory=dict)  # of our engine: bytes; of the machine: rates


Run = Callable[[Task], Times]


def prompt_ids(count: int) -> list[int]:
    """The same tokens for every side; none of them is special in any of the models."""
    return [300 + number * 7919 % 20000 for number in range(count)]


def serve(load: Callable[[Options], tuple[str, Run]]) -> None:
    """Load with the options of the command line, then obey standard input until it ends.

    ``load`` returns the library's version and a function that does a task.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

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
    """One line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:200]}".removesuffix(": ")
