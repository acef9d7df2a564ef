"""A conversation and its messages, as stored."""

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
from llama_cpu.history.attachments import collapsed

ROLES = ("system", "user", "assistant")
LATEST = 2.5e11  # seconds: the year 9892, after which Python has no dates
LONGEST_TITLE = 200  # characters
_DERIVED_TITLE = 50


class State(Enum):
    """The state of a message. The values appear in the database and in exported files."""

    COMPLETE = "complete"
    WRITING = "writing"  # an answer that a running process is generating
    STOPPED = "stopped"  # ended by the user, or because a limit was reached
    CUT = "cut"  # the process ended while it was generating the answer


class Gone(UserError):
    """A conversation or message does not exist; another window may have deleted it."""


@dataclass(frozen=True)
class StoredConversation:
    """A tree of messages, of which one branch is shown: the line from the first to ``leaf``.

    Times are seconds since 1970, UTC.
    """

    id: int
    title: str  # the user's, or the first words of the first message
    title_is_own: bool  # whether the user chose the title
    model: str  # name of the model used last
    settings: Mapping[str, Any]  # JSON values
    created: float
    updated: float  # when a message was last added or changed
    leaf: int | None  # id of the last message shown; None without messages
    message_count: int  # on all branches
    damage: str = ""  # names of fields that the database file has lost
    pinned: bool = False  # listed before the others


@dataclass(frozen=True)
class Run:
    """One run of the model for an answer: prefill, then decoding.

    An answer that was continued has several runs.
    """

    first: int  # index of its first token in ``token_seconds``
    reused: int  # prompt tokens found in the KV cache
    computed: int  # prompt tokens computed
    seconds: float  # of the prefill
    drafted: int = 0  # generated tokens that were accepted drafts, without a pass of their own
    ended: str = ""  # why it ended: a value of generation.events.StopReason; "" if not known


@dataclass(frozen=True)
class StoredMessage:
    """One message. Messages with the same parent are alternatives: edits, or other answers.

    ``token_ids`` (of an answer: int32, without the end token) belong to the vocabulary of
    ``model``. ``token_seconds`` and ``token_logprobs`` (float32, natural logarithms) are empty or
    have an entry for every generated token; these may be more than the ids, as an end token or a
    stop string is not part of the answer. ``runs`` is empty if an older version of this program
    wrote the answer.
    """

    id: int
    conversation_id: int
    parent: int | None
    role: str  # one of ROLES
    text: str
    state: State
    model: str  # the model that generated an answer; else ""
    created: float
    token_ids: Sequence[int]
    token_seconds: Sequence[float]
    token_logprobs: Sequence[float]
    runs: Sequence[Run] = ()
    damage: str = ""  # names of fields that the database file has lost


def by_day(
    conversations: Iterable[StoredConversation],
) -> list[tuple[datetime.date, list[StoredConversation]]]:
    """Group conversations by the day, in local time, of their last change, keeping the order."""

    def day(conversation: StoredConversation) -> datetime.date:
        return datetime.datetime.fromtimestamp(conversation.updated).date()

    return [(date, list(group)) for date, group in groupby(conversations, day)]


def first_words(text: str) -> str:
    """Make a title from the beginning of a text: one line of at most 50 characters."""
    line = " ".join(collapsed(text)[:1000].split())
    if len(line) <= _DERIVED_TITLE:
        return line
    head = line[: _DERIVED_TITLE - 1]
    words = head.rpartition(" ")[0] if line[len(head)] != " " else head
    return (words or head).rstrip() + "…"


def one_line(title: str) -> str:
    """Remove line breaks from a title and cut it to LONGEST_TITLE."""
    return " ".join(title.split())[:LONGEST_TITLE].rstrip()


def packed_ids(ids: Iterable[int]) -> bytes:
    """Pack token ids as little-endian int32."""
    return _little_endian(array("i", ids)).tobytes()


def packed_figures(figures: Iterable[float]) -> bytes:
    """One number per token, as little-endian float32."""
    return _little_endian(array("f", figures)).tobytes()


def unpacked_ids(data: bytes) -> Sequence[int]:
    """Unpack what ``packed_ids`` made."""
    ids: Sequence[int] = _little_endian(array("i", data))
    return ids


def unpacked_figures(data: bytes) -> Sequence[float]:
    """Unpack what ``packed_figures`` made."""
    figures: Sequence[float] = _little_endian(array("f", data))
    return figures


def packed_runs(runs: Iterable[Run]) -> str:
    """Pack runs as JSON: a list of objects with the names of the fields."""
    return json.dumps([asdict(run) for run in runs])


def unpacked_runs(text: str) -> Sequence[Run]:
    """Unpack runs; fields added by a later version of this program are ignored."""
    names = {field.name for field in fields(Run)}
    return tuple(
        Run(**{name: each for name, each in values.items() if name in names})
        for values in json.loads(text)
    )


def _little_endian(numbers: "array[Any]") -> "array[Any]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
