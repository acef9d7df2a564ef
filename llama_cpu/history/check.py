"""Finds damage in a database, and saves the conversations that can still be read in another.

The database itself is only read. Its pages are copied to memory first, where a damaged schema is
replaced by a plain one: SQLite reads nothing of a file whose schema it cannot parse.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from llama_cpu.history.database import explained
from llama_cpu.history.row_reading import as_conversation, as_message, text_of
from llama_cpu.history.rows import StoredConversation, StoredMessage
from llama_cpu.history.statements import with_parents
from llama_cpu.history.store import History

Row = TypeVar("Row", StoredConversation, StoredMessage)
_MOST_FAULTS = 20  # that are reported of SQLite's own check
# The tables that are saved; columns are found by their order. A record that ends early, of an
# older version, has NULL in the last ones.
_COLUMNS = {
    "conversations": "title, title_is_own, model, settings, created, updated, leaf",
    "messages": "conversation, parent, role, state, writer, model, created, text, token_ids, "
    "token_seconds, token_logprobs",
}
_PLAIN_SCHEMA = {
    "conversations": "CREATE TABLE conversations (id INTEGER PRIMARY KEY, "
    f"{_COLUMNS['conversations']}, pinned DEFAULT 0)",
    "messages": "CREATE TABLE messages (id INTEGER PRIMARY KEY, "
    f"{_COLUMNS['messages']}, runs DEFAULT '[]')",
}


@dataclass
class Checked:
    """What was found: conversations with the messages that can be read, and the faults."""

    conversations: list[tuple[StoredConversation, list[StoredMessage]]] = field(
        default_factory=list
    )
    faults: list[str] = field(default_factory=list)  # one line each

    @property
    def message_count(self) -> int:
        return sum(len(messages) for _, messages in self.conversations)


def check(path: Path) -> Checked:
    """Read everything in the database. Raises UserError if it is not a database at all."""
    checked = Checked()
    with closing(sqlite3.connect(":memory:")) as copy:
        with explained(path), closing(sqlite3.connect(path)) as original:
            original.backup(copy)
        copy.row_factory = sqlite3.Row
        copy.text_factory = text_of
        checked.faults += _faults_of_file(copy)
        with explained(path):
            _simplify_schema(copy)
        conversations = _rows(copy, "conversations", as_conversation, checked.faults)
        messages = _rows(copy, "messages", as_message, checked.faults)
    _sort_messages(conversations, messages, checked)
    return checked


def save(checked: Checked, path: Path) -> Path:
    """Write the conversations to a new database beside ``path``, and return its path."""
    number, target = 1, path.with_name(f"{path.stem}-saved{path.suffix}")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.stem}-saved-{number}{path.suffix}")
    with History(target) as history:
        for conversation, messages in sorted(checked.conversations, key=lambda each: each[0].id):
            with history.together():
                history.add_copy(conversation, messages)
    return target


def _faults_of_file(copy: sqlite3.Connection) -> list[str]:
    try:
        for table, columns in _COLUMNS.items():
            copy.execute(f"SELECT {columns} FROM {table} LIMIT 0")
        rows = copy.execute(f"PRAGMA integrity_check({_MOST_FAULTS})").fetchall()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return ["the table of contents of the file is damaged"]
    return [str(row[0]).splitlines()[0] for row in rows if row[0] != "ok"]


def _simplify_schema(copy: sqlite3.Connection) -> None:
    """Replace the schema by that of the tables to be saved, without indexes and triggers."""
    copy.execute("PRAGMA writable_schema = ON")
    kept = []
    for name, statement in _PLAIN_SCHEMA.items():
        # The lowest entry of a table is its own; later ones are its indexes and triggers.
        query = "SELECT min(rowid) FROM sqlite_master WHERE (? IN (name, tbl_name)) AND rootpage"
        (entry,) = copy.execute(query, (name,)).fetchone()
        if entry is not None:
            kept.append(entry)
            copy.execute(
                "UPDATE sqlite_master SET type = 'table', name = ?, tbl_name = ?, sql = ? "
                "WHERE rowid = ?",
                (name, name, statement, entry),
            )
    copy.execute(
        f"DELETE FROM sqlite_master WHERE rowid NOT IN ({', '.join(map(str, kept)) or '0'})"
    )
    copy.commit()
    copy.execute("PRAGMA writable_schema = RESET")


def _rows(
    copy: sqlite3.Connection, table: str, convert: Callable[[sqlite3.Row], Row], faults: list[str]
) -> list[Row]:
    """Return the rows of a table by id, without those on damaged pages."""
    found: dict[int, Row] = {}
    for order in ("ASC", "DESC"):  # up to a damaged page from either end
        try:
            for row in _select(copy, table, order):
                found[row["id"]] = convert(row)
            break
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            if order == "ASC":
                faults.append(f"some {table} are on damaged pages and cannot be read")
    return [found[id] for id in sorted(found)]


def _select(copy: sqlite3.Connection, table: str, order: str) -> Iterator[sqlite3.Row]:
    yield from copy.execute(f"SELECT *, 0 AS message_count FROM {table} ORDER BY id {order}")


def _sort_messages(
    conversations: list[StoredConversation], messages: list[StoredMessage], checked: Checked
) -> None:
    """Give each conversation its messages. A conversation whose own row is lost gets a new one."""
    by_conversation: dict[int, list[StoredMessage]] = {each.id: [] for each in conversations}
    for message in messages:
        by_conversation.setdefault(message.conversation_id, []).append(message)
    known = {each.id: each for each in conversations}
    for id, its_messages in by_conversation.items():
        whole = with_parents(its_messages)
        conversation = known.get(id) or _recovered(id, whole)
        ids = {message.id for message in whole}
        if whole and conversation.leaf not in ids:
            damage = ", ".join(filter(None, (conversation.damage, "leaf")))
            conversation = replace(conversation, leaf=whole[-1].id, damage=damage)
        if conversation.damage:
            checked.faults.append(f"conversation {id}: damaged ({conversation.damage})")
        checked.faults += [
            f"conversation {id}, message {message.id}: damaged ({message.damage})"
            for message in whole
            if message.damage
        ]
        checked.conversations.append((conversation, whole))


def _recovered(id: int, messages: list[StoredMessage]) -> StoredConversation:
    first, last = messages[0], messages[-1]
    title = f"Recovered conversation {id}"
    return StoredConversation(
        id, title, True, "", {}, first.created, last.created, last.id, len(messages), "its row"
    )
