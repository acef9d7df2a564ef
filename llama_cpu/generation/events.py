"""The events of an answer, in the order in which they happen.

One answer yields: TurnsDropped?, Prefill+, Token*, Finished.
"""

from dataclasses import dataclass
from enum import Enum


class StopReason(Enum):
    """Why an answer ended. The values appear in ``example_cpu.py --json``."""

    END = "end"  # the model generated one of its end tokens
    STOP_STRING = "stop_string"
    LENGTH = "length"  # --max_gen_len tokens
    CONTEXT = "context"  # the context is full
    REPETITION = "repetition"  # the answer repeated itself
    STOPPED = "stopped"  # the user stopped it
    FAILED = "failed"  # NaN or infinite logits, or an unusable prompt


@dataclass(frozen=True)
class TurnsDropped:
    """The oldest turns no longer fit in the context and were left out of the prompt."""

    count: int  # number of messages


@dataclass(frozen=True)
class Prefill:
    """Progress of the prefill, which processes the prompt."""

    reused: int  # prompt tokens found in the KV cache
    done: int  # prompt tokens computed so far
    total: int  # prompt tokens to compute
    seconds: float  # since the prefill began


@dataclass(frozen=True)
class Token:
    """One generated token."""

    id: int
    text: str  # new text to show: "" while a character or a stop string is incomplete
    # Since the previous token or the end of the prefill; tokens of one pass share its time evenly.
    seconds: float
    drafted: bool = False  # an accepted draft token, verified in the same pass as the token before


@dataclass(frozen=True)
class Finished:
    """The last event of every answer."""

    reason: StopReason
    text: str = ""  # text that was held back because it could have begun a stop string
    message: str = ""  # one sentence for the user if something went wrong


Event = TurnsDropped | Prefill | Token | Finished
