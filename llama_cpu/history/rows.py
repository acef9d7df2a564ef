"""A conversation and its messages as they are stored."""

import datetime
import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from itertools import groupby
from typing import Any

from llama_cpu.errors import UserError

ROLES = ("system", "user", "assistant")
LONGEST_TITLE = 200  # characters
_DERIVED_TITLE = 50


class State(Enum):
    """How far a message got. The values are in the database and in exported files."""

    COMPLETE = "complete"
    WRITING = "writing"  # an answer that a running program is at
    STOPPED = "stopped"  # ended before the model's own end: by the user or for want of room
    CUT = "cut"  # the program ended while it was written


class Gone(UserError):
    """A conversation or message is not there, or no longer: another window may have deleted it."""


@dataclass(frozen=True)
class StoredConversation:
    """A tree of messages, of which the line from the first one to ``leaf`` is shown.

    Times are seconds since 1970, UTC.
    """

    id: int
    title: str  # what the user called it, else the first words
    title_is_own: bool  # the user's
    model: str  # name of the model that was used last
    settings: Mapping[str, Any]  # JSON values, as whoever created it gave them
    created: float
    updated: float  # when a message was last added or written to
    leaf: int | None  # id of the message at the end; None where there are none
    message_count: int  # on all branches


@dataclass(frozen=True)
class Run:
    """One run of the model for an answer: the prompt read, then tokens. An answer that was
    continued has several."""

    first: int  # its first token's place in ``token_seconds``
    reused: int  # prompt tokens that were in the KV cache
    computed: int  # the others
    seconds: float  # that these took
    drafted: int = 0  # generated tokens that needed no pass of their own


@dataclass(frozen=True)
class StoredMessage:
    """One message. Those with the same parent are alternatives: edits, or further answers.

    ``token_ids`` (of an answer: int32, without the end token) mean something only to ``model``'s
    vocabulary. ``token_seconds`` and ``token_logprobs`` (float32, natural logarithms) have an
    entry for every generated token or none at all; that may be more than there are ids, as an end
    token or a stop string is not part of the answer. ``runs`` are missing where an older
    version of this program wrote the answer.
    """

    id: int
    conversation_id: int
    parent: int | None
    role: str  # one of ROLES
    text: str
    state: State
    model: str  # of an answer: the model that gave it; else ""
    created: float
    token_ids: Sequence[int]
    token_seconds: Sequence[float]
    token_logprobs: Sequence[float]
    runs: Sequence[Run] = ()


def by_day(
    conversations: Iterable[StoredConversation],
) -> list[tuple[datetime.date, list[StoredConversation]]]:
    """Conversations under the day, in local time, of their last message; the order stays."""

    def day(conversation: StoredConversation) -> datetime.date:
        return datetime.datetime.fromtimestamp(conversation.updated).date()

    return [(date, list(group)) for date, group in groupby(conversations, day)]


def first_words(text: str) -> str:
    """A title for a conversation that begins with this text: one line of at most 50 characters."""
    line = " ".join(text[:1000].split())
    if len(line) <= _DERIVED_TITLE:
        return line
    head = line[: _DERIVED_TITLE - 1]
    words = head.rpartition(" ")[0] if line[len(head)] != " " else head
    return (words or head).rstrip() + "…"


def one_line(title: str) -> str:
    """A title as the user wrote it, without line breaks and not without end."""
    return " ".join(title.split())[:LONGEST_TITLE].rstrip()


def packed_ids(ids: Iterable[int]) -> bytes:
    """Token ids as little-endian int32."""
    return _little_endian(array("i", ids)).tobytes()


def packed_figures(figures: Iterable[float]) -> bytes:
    """One number a token as little-endian float32."""
    return _little_endian(array("f", figures)).tobytes()


def unpacked_ids(data: bytes) -> Sequence[int]:
    return _little_endian(array("i", data))


def unpacked_figures(data: bytes) -> Sequence[float]:
    return _little_endian(array("f", data))


def packed_runs(runs: Iterable[Run]) -> str:
    """JSON: a list of objects with the fields' names."""
    return json.dumps([asdict(run) for run in runs])


def unpacked_runs(text: str) -> Sequence[Run]:
    """Fields that a later version of this program may have added are left out."""
    names = [field.name for field in fields(Run)]
    return tuple(Run(*(values[name] for name in names)) for values in json.loads(text))


def _little_endian(numbers: array) -> array:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
