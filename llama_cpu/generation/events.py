"""What the model's work tells those who watch it: a few small events, in the order they happen.

One answer is: TurnsDropped?, Prefill+, Token*, Finished.
"""

from dataclasses import dataclass
from enum import Enum


class StopReason(Enum):
    """Why an answer ended. The values appear in ``example_cpu.py --json``."""

    END = "end"  # the model said so with one of its end tokens
    STOP_STRING = "stop_string"
    LENGTH = "length"  # --max_gen_len tokens
    CONTEXT = "context"  # the context is full
    STOPPED = "stopped"  # the user asked
    FAILED = "failed"  # NaN or infinite logits, or the prompt cannot be answered


@dataclass(frozen=True)
class TurnsDropped:
    """The oldest turns no longer fit into the context and were left out of the prompt."""

    count: int  # messages


@dataclass(frozen=True)
class Prefill:
    """Progress of reading the prompt."""

    reused: int  # prompt tokens that were in the KV cache already
    done: int  # prompt tokens computed so far
    total: int  # prompt tokens to compute
    seconds: float  # since the prefill began


@dataclass(frozen=True)
class Token:
    """One generated token."""

    id: int
    text: str  # what can be shown now: "" while a character or a stop string is incomplete
    seconds: float  # since the token before, or since the prefill ended; shared evenly in a pass
    drafted: bool = False  # proposed, and checked in the same pass as the token before


@dataclass(frozen=True)
class Finished:
    """The last event of every answer."""

    reason: StopReason
    text: str = ""  # text that was held back and now is known to belong to the answer
    message: str = ""  # one sentence for the user, where something went wrong


Event = TurnsDropped | Prefill | Token | Finished
