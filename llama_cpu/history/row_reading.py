"""Rows of the database to conversations and messages, whatever they contain.

SQLite checks neither types nor contents, and a disk may change any byte. A field that cannot be
used gets a harmless value, and ``damage`` of the result says which; so one bad row does not keep
the user from the others.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llama_cpu.history.rows import (
    LATEST,
    ROLES,
    Run,
    State,
    StoredConversation,
    StoredMessage,
    unpacked_figures,
    unpacked_ids,
    unpacked_runs,
)
from llama_cpu.system.text import is_unicode

T = TypeVar("T")
_LARGEST_COUNT = 1 << 31


def text_of(data: bytes) -> str:
    """Decode a text of the database; bytes that are not UTF-8 become lone surrogates."""
    return data.decode(errors="surrogateescape")


def as_conversation(row: sqlite3.Row) -> StoredConversation:
    """Convert a row of conversations that also has the column ``message_count``."""
    fields = _Fields(row)
    return StoredConversation(
        id=row["id"],
        title=fields.text("title"),
        title_is_own=bool(row["title_is_own"]),
        model=fields.text("model"),
        settings=fields.parsed("settings", _settings, {}),
        created=fields.seconds("created"),
        updated=fields.seconds("updated"),
        leaf=fields.id_or_none("leaf"),
        message_count=row["message_count"],
        pinned=bool(row["pinned"]),
        damage=fields.damage,
    )


def as_message(row: sqlite3.Row) -> StoredMessage:
    """Convert a row of messages."""
    fields = _Fields(row)
    role = fields.text("role")
    parent = fields.id_or_none("parent")
    return StoredMessage(
        id=row["id"],
        conversation_id=fields.id_or_none("conversation") or 0,
        parent=parent if parent is None or parent < row["id"] else fields.wrong("parent", None),
        role=role if role in ROLES else fields.wrong("role", "user"),
        text=fields.text("text"),
        state=fields.parsed("state", State, State.CUT),
        model=fields.text("model"),
        created=fields.seconds("created"),
        token_ids=fields.parsed("token_ids", _token_ids, ()),
        token_seconds=fields.parsed("token_seconds", unpacked_figures, ()),
        token_logprobs=fields.parsed("token_logprobs", unpacked_figures, ()),
        runs=fields.parsed("runs", _runs, ()),
        damage=fields.damage,
    )


class _Fields:
    """The fields of one row; ``damage`` names those that could not be used."""

    def __init__(self, row: sqlite3.Row) -> None:
        self._row = row
        self._wrong: list[str] = []

    @property
    def damage(self) -> str:
        return ", ".join(self._wrong)

    def wrong(self, name: str, instead: T) -> T:
        self._wrong.append(name)
        return instead

    def text(self, name: str) -> str:
        value = self._row[name]
        if isinstance(value, str) and is_unicode(value):
            return value
        if isinstance(value, str):
            value = value.encode(errors="surrogateescape")
        known = value.decode(errors="replace") if isinstance(value, bytes) else ""
        return self.wrong(name, known)

    def seconds(self, name: str) -> float:
        value = self._row[name]
        is_time = isinstance(value, (int, float)) and 0 <= value <= LATEST  # not NaN
        return float(value) if is_time else self.wrong(name, 0.0)

    def id_or_none(self, name: str) -> int | None:
        value = self._row[name]
        return value if value is None or isinstance(value, int) else self.wrong(name, None)

    def parsed(self, name: str, parse: Callable[[Any], T], instead: T) -> T:
        try:
            return parse(self._row[name])
        except (ValueError, TypeError, KeyError, RecursionError):
            return self.wrong(name, instead)


def _settings(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict) or not is_unicode(json.dumps(values, ensure_ascii=False)):
        raise ValueError("not an object of settings")
    return values


def _token_ids(data: bytes) -> Sequence[int]:
    ids = unpacked_ids(data)
    if min(ids, default=0) < 0:
        raise ValueError("a token id is negative")
    return ids


def _runs(text: str) -> Sequence[Run]:
    runs = unpacked_runs(text)
    for run in runs:
        for count in (run.first, run.reused, run.computed, run.drafted):
            if type(count) is not int or not 0 <= count <= _LARGEST_COUNT:
                raise ValueError("not a number of tokens")
        if not isinstance(run.seconds, (int, float)) or not math.isfinite(run.seconds):
            raise ValueError("not a number of seconds")
    return runs
