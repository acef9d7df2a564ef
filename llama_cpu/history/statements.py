"""The SQL statements, each executed in the caller's transaction."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from llama_cpu.history.row_reading import as_conversation, as_message
from llama_cpu.history.rows import (
    Gone,
    StoredConversation,
    StoredMessage,
    first_words,
    packed_figures,
    packed_ids,
    packed_runs,
)

# By name: the schema of a damaged file may call a column otherwise.
_MESSAGE = """id, conversation, parent, role, state, model, created, text, token_ids, token_seconds,
    token_logprobs, runs"""
_CONVERSATION = """SELECT id, title, title_is_own, model, settings, created, updated, leaf, pinned,
    (SELECT count(*) FROM messages WHERE conversation = conversations.id) AS message_count
    FROM conversations"""
# A message and its descendants on all branches. Like the schema, the conditions on ids exclude
# cycles, which a damaged file may have.
_BRANCH = """WITH RECURSIVE branch (id) AS (
    SELECT id FROM messages WHERE id = :message UNION ALL
    SELECT messages.id FROM branch JOIN messages
    ON messages.conversation = :conversation AND messages.parent = branch.id
    AND messages.id > branch.id)"""
# A message and its ancestors; sorting by id puts them in order.
_LINE = """WITH RECURSIVE line (id, parent) AS (
    SELECT id, parent FROM messages WHERE id = :leaf UNION ALL
    SELECT messages.id, messages.parent FROM line
    JOIN messages ON messages.id = line.parent AND messages.id < line.id)"""


def storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by question marks."""
    return text.encode(errors="replace").decode()


def get_conversation(connection: sqlite3.Connection, id: int) -> StoredConversation:
    """One conversation. Raises Gone."""
    row = connection.execute(f"{_CONVERSATION} WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise Gone(f"There is no conversation {id}.")
    return as_conversation(row)


def get_conversations(connection: sqlite3.Connection, limit: int = -1) -> list[StoredConversation]:
    """Conversations, pinned ones and then the most recently updated first; ``limit`` -1: all."""
    query = f"{_CONVERSATION} ORDER BY pinned DESC, updated DESC, id DESC LIMIT ?"
    return [as_conversation(row) for row in connection.execute(query, (limit,))]


def get_latest(connection: sqlite3.Connection) -> StoredConversation | None:
    """The conversation that was updated last; None if there is none."""
    query = f"{_CONVERSATION} ORDER BY updated DESC, id DESC LIMIT 1"
    row = connection.execute(query).fetchone()
    return as_conversation(row) if row else None


def insert_conversation(connection: sqlite3.Connection, conversation: StoredConversation) -> int:
    """Insert a conversation without messages; returns its new id."""
    return _insert(
        connection,
        "conversations",
        title=storable(conversation.title),
        title_is_own=conversation.title_is_own,
        model=storable(conversation.model),
        settings=json.dumps(conversation.settings),
        created=conversation.created,
        updated=conversation.updated,
        pinned=conversation.pinned,
    )


def derive_title(connection: sqlite3.Connection, conversation_id: int) -> None:
    """If the title is empty, use the first words of the oldest user message."""
    query = "SELECT text FROM messages WHERE conversation = ? AND role = 'user' ORDER BY id LIMIT 1"
    row = connection.execute(query, (conversation_id,)).fetchone()
    connection.execute(
        "UPDATE conversations SET title = ? WHERE id = ? AND NOT title_is_own AND title = ''",
        (first_words(row["text"]) if row else "", conversation_id),
    )


def set_leaf(connection: sqlite3.Connection, conversation_id: int, leaf: int | None) -> None:
    """Set the last message of the line that is shown."""
    connection.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (leaf, conversation_id))


def get_message(connection: sqlite3.Connection, id: int) -> StoredMessage:
    """One message. Raises Gone."""
    row = connection.execute(f"SELECT {_MESSAGE} FROM messages WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise Gone(f"There is no message {id}; it may have been deleted in another window.")
    return as_message(row)


def require_message(connection: sqlite3.Connection, conversation_id: int, id: int) -> None:
    """Raise Gone unless the conversation has this message."""
    query = "SELECT 1 FROM messages WHERE conversation = ? AND id = ?"
    if connection.execute(query, (conversation_id, id)).fetchone() is None:
        raise Gone(f"Conversation {conversation_id} has no message {id}; it may have been deleted.")


def get_line(connection: sqlite3.Connection, leaf: int | None) -> list[StoredMessage]:
    """The messages from the first one to ``leaf``."""
    query = f"{_LINE} SELECT {_MESSAGE} FROM messages WHERE id IN (SELECT id FROM line) ORDER BY id"
    return [as_message(row) for row in connection.execute(query, {"leaf": leaf})]


def get_tree(connection: sqlite3.Connection, conversation_id: int) -> list[StoredMessage]:
    """The messages of all branches, parents before children.

    A message whose parent a damaged file has lost follows the message before it.
    """
    query = f"SELECT {_MESSAGE} FROM messages WHERE conversation = ? ORDER BY id"
    return with_parents(map(as_message, connection.execute(query, (conversation_id,))))


def with_parents(messages: Iterable[StoredMessage]) -> list[StoredMessage]:
    """Give each message whose parent is not among those before it the message before it."""
    whole: list[StoredMessage] = []
    ids: set[int | None] = {None}
    for message in messages:
        if message.parent not in ids:
            damage = ", ".join(filter(None, (message.damage, "parent")))
            parent = whole[-1].id if whole else None
            message = replace(message, parent=parent, damage=damage)
        ids.add(message.id)
        whole.append(message)
    return whole


def insert_message(
    connection: sqlite3.Connection, message: StoredMessage, writer: str | None
) -> int:
    """Insert a message; returns its new id."""
    return _insert(
        connection,
        "messages",
        conversation=message.conversation_id,
        parent=message.parent,
        role=message.role,
        state=message.state.value,
        writer=writer,
        model=storable(message.model),
        created=message.created,
        text=storable(message.text),
        token_ids=packed_ids(message.token_ids),
        token_seconds=packed_figures(message.token_seconds),
        token_logprobs=packed_figures(message.token_logprobs),
        runs=packed_runs(message.runs),
    )


def delete_branch(connection: sqlite3.Connection, message: StoredMessage) -> None:
    """Delete a message and its descendants."""
    connection.execute(f"{_BRANCH} DELETE FROM messages WHERE id IN branch", _branch(message))


def newest_on_branch(connection: sqlite3.Connection, message: StoredMessage) -> int:
    """The id of the newest among a message and its descendants.

    It has no children, as children are newer than their parents.
    """
    row = connection.execute(f"{_BRANCH} SELECT max(id) FROM branch", _branch(message)).fetchone()
    newest: int = row[0]
    return newest


def newest_of(connection: sqlite3.Connection, conversation_id: int) -> int | None:
    """The id of the newest message on any branch; None if there are no messages."""
    query = "SELECT max(id) FROM messages WHERE conversation = ?"
    row = connection.execute(query, (conversation_id,)).fetchone()
    newest: int | None = row[0]
    return newest


def _branch(message: StoredMessage) -> Mapping[str, int]:
    return {"message": message.id, "conversation": message.conversation_id}


def _insert(connection: sqlite3.Connection, table: str, **values: Any) -> int:
    marks = ", ".join(f":{name}" for name in values)
    statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"
    new_id = connection.execute(statement, values).lastrowid
    assert new_id is not None
    return new_id
