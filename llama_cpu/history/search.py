"""Full-text search over messages and titles.

Triggers keep the index up to date. If they are missing, the index is rebuilt from the tables.
"""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from llama_cpu.history.database import transaction

# The name of each index, and the table and column that it covers.
_INDEXES = (("text_index", "messages", "text"), ("title_index", "conversations", "title"))
_MOST_WORDS, _LONGEST_WORD = 32, 100
# Scripts without spaces between words (Thai to Khmer, Chinese, Japanese), in which the index would
# find only the beginning of a text.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_AROUND = 40  # characters of an excerpt before and after the matching word


@dataclass(frozen=True)
class Found:
    """A search result. ``message_id`` is None if only the title matches."""

    conversation_id: int
    message_id: int | None
    snippet: str


def prepare_index(connection: sqlite3.Connection) -> bool:
    """Make sure that the index is kept up to date; returns False if SQLite has no FTS5.

    The triggers fail in an SQLite without FTS5, which therefore drops them. The next SQLite with
    FTS5 finds them missing and rebuilds the index.
    """
    has_fts5 = _has_fts5(connection)
    if has_fts5 == _has_triggers(connection):
        return has_fts5
    with transaction(connection):
        if not has_fts5:
            for name, _, _ in _INDEXES:
                for event in ("insert", "delete", "update"):
                    connection.execute(f"DROP TRIGGER IF EXISTS {name}_{event}")
        elif not _has_triggers(connection):  # another process may have just created them
            for name, table, column in _INDEXES:
                _make_index(connection, name, table, column)
    return has_fts5


def _has_fts5(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.probe USING fts5 (text)")
    except sqlite3.OperationalError:
        return False
    connection.execute("DROP TABLE temp.probe")
    return True


def _has_triggers(connection: sqlite3.Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"
    return bool(connection.execute(query).fetchone()[0])


def _make_index(connection: sqlite3.Connection, name: str, table: str, column: str) -> None:
    """Create an external-content index (sqlite.org/fts5.html), which reads the text from the table.

    Its triggers must pass it the exact old text when a row changes.
    """
    add = f"INSERT INTO {name} (rowid, {column}) VALUES (new.id, new.{column});"
    remove = (
        f"INSERT INTO {name} ({name}, rowid, {column}) VALUES ('delete', old.id, old.{column});"
    )
    for statement in (
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {name} USING fts5 ({column}, content = '{table}', "
        "content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2')",
        f"INSERT INTO {name} ({name}) VALUES ('rebuild')",
        f"CREATE TRIGGER {name}_insert AFTER INSERT ON {table} BEGIN {add} END",
        f"CREATE TRIGGER {name}_delete AFTER DELETE ON {table} BEGIN {remove} END",
        f"CREATE TRIGGER {name}_update AFTER UPDATE OF {column} ON {table} "
        f"BEGIN {remove} {add} END",
    ):
        connection.execute(statement)


def find(connection: sqlite3.Connection, has_index: bool, text: str, limit: int) -> list[Found]:
    """Conversations with all words of ``text`` in one message or in the title, newest first.

    The last word may be a prefix. Any text is a valid query.
    """
    words = [word[:_LONGEST_WORD] for word in _clean(text).split()[:_MOST_WORDS]]
    if not words:
        return []
    plain = all(any(map(str.isalnum, word)) for word in words)
    if has_index and plain and not _WITHOUT_SPACES.search(text):
        return _find_in_index(connection, words, limit)
    return _find_by_reading(connection, words, limit)


def _clean(text: str) -> str:
    """Replace null characters and lone surrogates, which neither SQLite nor a terminal takes."""
    return text.encode(errors="replace").decode().replace("\0", " ")


def _find_in_index(connection: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Found]:
    # Quotes turn FTS5's keywords (NEAR, OR, column names) into ordinary words.
    query = " ".join('"' + word.replace('"', '""') + '"' for word in words) + "*"
    titles = "id IN (SELECT rowid FROM title_index WHERE title_index MATCH ?)"
    texts = "messages.id IN (SELECT rowid FROM text_index WHERE text_index MATCH ?)"
    snippet = (
        "SELECT snippet(text_index, 0, '', '', '…', 16) FROM text_index "
        "WHERE text_index MATCH ? AND rowid = ?"
    )
    found = []
    for conversation, message in _newest(connection, titles, texts, [query], limit):
        row = connection.execute(snippet, (query, message)).fetchone() if message else None
        found.append(Found(conversation, message, _one_line(row[0]) if row else ""))
    return found


def _find_by_reading(
    connection: sqlite3.Connection, words: Sequence[str], limit: int
) -> list[Found]:
    patterns = ["%" + re.sub(r"([%_\\])", r"\\\1", word) + "%" for word in words]
    titles, texts = (
        " AND ".join([f"{column} LIKE ? ESCAPE '\\'"] * len(words)) for column in ("title", "text")
    )
    found = []
    for conversation, message in _newest(connection, titles, texts, patterns, limit):
        row = connection.execute("SELECT text FROM messages WHERE id = ?", (message,)).fetchone()
        found.append(Found(conversation, message, _around(row[0], words[0]) if row else ""))
    return found


def _newest(
    connection: sqlite3.Connection, titles: str, texts: str, values: Sequence[str], limit: int
) -> list[tuple[int, int | None]]:
    """Ids of conversations, each with the id of its newest message that meets ``texts``.

    The message's id is None if only the title matches. ``titles``, ``texts``: SQL conditions.
    """
    query = f"""
        SELECT conversations.id, message FROM conversations LEFT JOIN (
            SELECT conversation, max(messages.id) AS message FROM messages WHERE {texts}
            GROUP BY conversation
        ) ON conversation = conversations.id
        WHERE message IS NOT NULL OR {titles}
        ORDER BY updated DESC, conversations.id DESC LIMIT ?"""
    rows = connection.execute(query, (*values, *values, limit))
    return [(conversation, message) for conversation, message in rows]


def _around(text: str, word: str) -> str:
    place = max(0, text.lower().find(word.lower()))
    start, end = max(0, place - _AROUND), place + len(word) + _AROUND
    snippet = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
    return _one_line(snippet)


def _one_line(snippet: str) -> str:
    return " ".join(_clean(snippet).split())
