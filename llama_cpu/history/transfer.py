"""Exports a conversation as Markdown or JSON, and imports the JSON.

The JSON is one object, version 1:

    {"format": "llama_cpu conversation", "version": 1,
     "title": text, "title_is_own": true if the user chose it, "model": name,
     "settings": object, "created": seconds since 1970 in UTC, "updated": the same,
     "pinned": true if it is listed first, "leaf": id of the last message shown, or null,
     "messages": [{"id": number, "parent": id of a message before this one in the list, or null,
                   "role": "system" | "user" | "assistant", "text": text,
                   "state": "complete" | "stopped" | "cut", "model": name, "created": seconds,
                   "token_ids": [...], "token_seconds": [...], "token_logprobs": [...],
                   "runs": [{"first": index in token_seconds, "reused": prompt tokens,
                             "computed": prompt tokens, "seconds": of the prefill,
                             "drafted": accepted draft tokens,
                             "ended": why it ended, or ""}, ...]}, ...]}

Messages with the same parent are alternatives. Ids are valid only within the file. The lists of
figures may be empty, and contain null for values that are not numbers; "runs", "ended" and "pinned"
may be missing. Control characters in texts are replaced by visible symbols when they are imported.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.generation.events import StopReason
from llama_cpu.history.rows import (
    LATEST,
    ROLES,
    Run,
    State,
    StoredConversation,
    StoredMessage,
    one_line,
)
from llama_cpu.history.store import History
from llama_cpu.system.fields import Fields
from llama_cpu.system.safe_reading import read_json
from llama_cpu.system.text import cleaned, is_unicode, printable

FORMAT, VERSION = "llama_cpu conversation", 1
_NAMES = {"system": "System", "user": "You", "assistant": "Assistant"}
_NOTES = {
    State.WRITING: "*(still being written)*",
    State.STOPPED: "*(stopped here)*",
    State.CUT: "*(cut off here)*",
}
_ENDED = ("", *(reason.value for reason in StopReason))
_SETTINGS_BYTES = 1 << 20


def as_markdown(conversation: StoredConversation, path: Sequence[StoredMessage]) -> str:
    """The messages of one branch, each under a heading.

    Control characters are replaced by visible symbols, as the file may be shown in a terminal.
    """
    parts = [f"# {one_line(conversation.title) or 'Conversation'}"]
    facts = [conversation.model, day_and_time(conversation.created)]
    parts.append(f"*{', '.join(filter(None, facts))}*")
    system = conversation.settings.get("system")
    if isinstance(system, str):
        parts += ["## System", system.strip("\n")]
    for message in path:
        parts += [f"## {_NAMES[message.role]}", message.text.strip("\n")]
        if message.state in _NOTES:
            parts.append(_NOTES[message.state])
    return printable("\n\n".join(filter(None, parts)) + "\n")


def day_and_time(seconds: float) -> str:
    """``2026-01-31 14:05``, in local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def as_json(conversation: StoredConversation, messages: Iterable[StoredMessage]) -> str:
    """All branches, with everything that is stored; see the module's docstring.

    An answer that is being written is exported as cut.
    """
    values = {
        "format": FORMAT,
        "version": VERSION,
        "title": conversation.title,
        "title_is_own": conversation.title_is_own,
        "model": conversation.model,
        "settings": conversation.settings,
        "created": conversation.created,
        "updated": conversation.updated,
        "pinned": conversation.pinned,
        "leaf": conversation.leaf,
    }
    head = json.dumps(values, ensure_ascii=False, indent=1).removesuffix("\n}")
    lines = [json.dumps(_as_values(message), ensure_ascii=False) for message in messages]
    text = f'{head},\n "messages": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    # json escapes control characters below space; a terminal may also obey these.
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _as_values(message: StoredMessage) -> dict[str, Any]:
    state = State.CUT if message.state is State.WRITING else message.state
    return {
        "id": message.id,
        "parent": message.parent,
        "role": message.role,
        "text": message.text,
        "state": state.value,
        "model": message.model,
        "created": message.created,
        "token_ids": list(message.token_ids),
        "token_seconds": _shortened(message.token_seconds),
        "token_logprobs": _shortened(message.token_logprobs),
        "runs": [asdict(run) for run in message.runs],
    }


def _shortened(figures: Iterable[float]) -> list[float | None]:
    """Nine significant digits distinguish all float32 values."""
    return [float(f"{figure:.9g}") if math.isfinite(figure) else None for figure in figures]


def import_json(history: History, path: Path) -> StoredConversation:
    """Add the conversation in a file that ``as_json`` made.

    Raises UserError if a field is invalid; nothing is added then.
    """
    conversation, messages = read_conversation(path)
    return history.add_copy(conversation, messages)


def read_conversation(path: Path) -> tuple[StoredConversation, list[StoredMessage]]:
    """Read the file and check every field. Raises UserError."""
    fields = _Checked(read_json(path, of="the export"), path)
    if fields.values.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a conversation that llama_cpu exported as JSON; name such a file."
        )
    version = fields.integer("version", 1, 1 << 53)
    if version > VERSION:
        raise UserError(f"{path} was exported by a newer version of llama_cpu; use that one.")
    messages: list[StoredMessage] = []
    ids: set[int] = set()
    for number, values in enumerate(fields.objects("messages"), start=1):
        message = _read_message(_Checked(values, path, f"message {number}: "), ids)
        ids.add(message.id)
        messages.append(message)
    if not messages:
        raise UserError(f"{path} has no messages; there is nothing to import.")
    conversation = StoredConversation(
        id=0,
        title=one_line(fields.text("title")),
        title_is_own=fields.flag("title_is_own"),
        model=fields.text("model"),
        settings=fields.settings("settings"),
        created=fields.number("created", 0, LATEST),
        updated=fields.number("updated", 0, LATEST),
        leaf=fields.id_among("leaf", ids, "the id of a message, or null") or messages[-1].id,
        message_count=len(messages),
        pinned=fields.flag("pinned", default=False),
    )
    return conversation, messages


def _read_message(fields: "_Checked", ids: set[int]) -> StoredMessage:
    """One message. ``ids``: those of the messages before it."""
    id = fields.integer("id", 1, 1 << 53)
    if id in ids:
        raise fields.wrong("id", id, "the id of one message only")
    return StoredMessage(
        id=id,
        conversation_id=0,
        parent=fields.id_among("parent", ids, "the id of an earlier message, or null"),
        role=fields.choice("role", ROLES),
        text=fields.text("text"),
        state=State(fields.choice("state", ("complete", "stopped", "cut"))),
        model=fields.text("model"),
        created=fields.number("created", 0, LATEST),
        token_ids=fields.token_ids("token_ids"),
        token_seconds=fields.figures("token_seconds"),
        token_logprobs=fields.figures("token_logprobs"),
        runs=fields.runs("runs") if fields.has("runs") else (),
    )


class _Checked(Fields):
    """The fields of one object in the file. ``where``: names the object in errors."""

    def __init__(self, values: Mapping[str, Any], file: Path, where: str = "") -> None:
        super().__init__(values, file)
        self._where = where

    def text(self, key: str) -> str:
        value = self._get(key, None)
        if not isinstance(value, str) or not is_unicode(value):
            raise self.wrong(key, value, "text")
        return cleaned(value)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self._get(key, None)
        if value not in choices:
            raise self.wrong(key, value, f"one of {', '.join(choices)}")
        return str(value)

    def id_among(self, key: str, ids: set[int], wanted: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (type(value) is not int or value not in ids):
            raise self.wrong(key, value, wanted)
        return value

    def objects(self, key: str) -> list[dict[str, Any]]:
        return self._list(key, lambda value: isinstance(value, dict), "a list of objects")

    def token_ids(self, key: str) -> list[int]:
        wanted = "a list of token ids"
        return self._list(key, lambda value: type(value) is int and 0 <= value < 1 << 31, wanted)

    def figures(self, key: str) -> list[float]:
        def is_figure(value: Any) -> bool:
            return value is None or (type(value) in (int, float) and abs(value) <= 1e9)

        values = self._list(key, is_figure, "a list of numbers")
        return [math.nan if value is None else value for value in values]

    def runs(self, key: str) -> list[Run]:
        runs = []
        for number, values in enumerate(self.objects(key), start=1):
            run = _Checked(values, self.file, f"{self._where}run {number}: ")
            names = ("first", "reused", "computed", "drafted")
            first, reused, computed, drafted = (run.integer(each, 0, 1 << 31) for each in names)
            seconds = run.number("seconds", 0, 1e9)
            ended = run.choice("ended", _ENDED) if run.has("ended") else ""
            runs.append(Run(first, reused, computed, seconds, drafted, ended))
        return runs

    def settings(self, key: str) -> dict[str, Any]:
        value = self._get(key, None)
        try:
            size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
        except (ValueError, RecursionError):  # NaN, a lone surrogate, or nested too deeply
            size = _SETTINGS_BYTES
        if not isinstance(value, dict) or size >= _SETTINGS_BYTES:
            raise self.wrong(key, value, "an object of settings")
        return {cleaned(name): _cleaned(each) for name, each in value.items()}

    def wrong(self, key: str, value: Any, wanted: str) -> UserError:
        return self._bad(key, value, wanted)

    def _bad(self, key: str, value: Any, wanted: str) -> UserError:
        return super()._bad(f"{self._where}{key}", value, wanted)

    def _list(self, key: str, is_right: Callable[[Any], bool], wanted: str) -> list[Any]:
        values = self._get(key, None)
        if not isinstance(values, list):
            raise self.wrong(key, values, wanted)
        for value in values:
            if not is_right(value):
                raise self.wrong(key, value, wanted)
        return values


def _cleaned(value: Any) -> Any:
    """A setting's value without control characters; its depth is limited by the JSON parser."""
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if isinstance(value, dict):
        return {cleaned(name): _cleaned(each) for name, each in value.items()}
    return value
