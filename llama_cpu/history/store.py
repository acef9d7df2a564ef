"""The history: reads and changes conversations. A change is on disk when its method returns."""

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.history import statements
from llama_cpu.history.database import connect, explained, transaction, true_path
from llama_cpu.history.rows import (
    Gone,
    Run,
    State,
    StoredConversation,
    StoredMessage,
    one_line,
    packed_figures,
    packed_ids,
    packed_runs,
)
from llama_cpu.history.search import Found, find, prepare_index
from llama_cpu.history.writers import Writers


class History:
    """All conversations in one database, which several processes may have open.

    Methods may be called from any thread; a lock serialises them. A method that writes waits for
    the disk, usually a few milliseconds, and up to ten seconds for other processes. An app should
    therefore save a growing answer from a worker thread, not from its event loop. Every answer
    must get a final state (``save_answer``), however it ends; if the process dies first, other
    processes mark the answer as cut.

    Every method raises UserError if the database cannot be read or written (a full disk, a damaged
    file). Nothing has changed then, and the same call may be repeated later: ``save_answer`` always
    saves the whole answer. If a conversation or message does not exist, the error is Gone.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the database at ``path`` and create it if needed. None: a database in memory.

        Raises UserError as ``connect`` does.
        """
        self._path = path = true_path(path) if path else None
        self._lock = threading.RLock()
        self._closed = False
        self._connection = connect(path)
        self._writers = Writers(self._connection, path)
        try:
            with explained(path):
                self._has_index = prepare_index(self._connection)
                self._cut_answers_of_dead_writers()
                self._version = self._data_version()
        except BaseException:
            self._connection.close()
            raise

    @property
    def file(self) -> Path | None:
        """The database file; None if the database is in memory."""
        return self._path

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Unfinished answers of this process are marked as cut."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                with self._writing():
                    self._writers.cut_own_answers()
            finally:
                self._connection.close()
                self._writers.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run several calls as one transaction: if one of them fails, nothing changes."""
        with self._writing():
            yield

    def changed_elsewhere(self) -> bool:
        """Return whether another process has changed the database since the last call.

        It takes microseconds, as SQLite compares two numbers.
        """
        with self._reading():
            before = self._version
            if not self._closed:
                self._version = self._data_version()
            return self._version != before

    def _data_version(self) -> int:
        """A number that other connections' changes change, but not this one's."""
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    # Conversations

    def create(
        self, model: str = "", settings: Mapping[str, Any] | None = None, title: str = ""
    ) -> StoredConversation:
        """Create a conversation without messages.

        Without a ``title``, the first words of the first user message become the title.
        ``settings``: anything that JSON can represent.
        """
        now = time.time()
        own = one_line(title)
        new = StoredConversation(0, own, bool(own), model, settings or {}, now, now, None, 0)
        with self._writing():
            return self.get(statements.insert_conversation(self._connection, new))

    def get(self, conversation_id: int) -> StoredConversation:
        """Return one conversation. Raises Gone."""
        with self._reading():
            return statements.get_conversation(self._connection, conversation_id)

    def conversations(self, limit: int = -1) -> list[StoredConversation]:
        """Return all conversations, or the first ``limit``: pinned, then recently updated ones.

        ``rows.by_day`` groups them.
        """
        with self._reading():
            return statements.get_conversations(self._connection, limit)

    def latest(self) -> StoredConversation | None:
        """Return the most recently updated conversation; None if there are no conversations."""
        with self._reading():
            return statements.get_latest(self._connection)

    def rename(self, conversation_id: int, title: str) -> StoredConversation:
        """Set the title; a blank one restores the title made of the first words. Raises Gone."""
        own = one_line(title)
        with self._writing():
            self._connection.execute(
                "UPDATE conversations SET title = ?, title_is_own = ? WHERE id = ?",
                (statements.storable(own), bool(own), conversation_id),
            )
            statements.derive_title(self._connection, conversation_id)
            return self.get(conversation_id)

    def pin(self, conversation_id: int, pinned: bool) -> StoredConversation:
        """List the conversation before those that are not pinned, or no longer. Raises Gone."""
        with self._writing():
            self._connection.execute(
                "UPDATE conversations SET pinned = ? WHERE id = ?", (pinned, conversation_id)
            )
            return self.get(conversation_id)

    def set_model(
        self, conversation_id: int, model: str, settings: Mapping[str, Any]
    ) -> StoredConversation:
        """Store the model that the conversation uses now, and its settings. Raises Gone."""
        with self._writing():
            self._connection.execute(
                "UPDATE conversations SET model = ?, settings = ? WHERE id = ?",
                (statements.storable(model), json.dumps(settings), conversation_id),
            )
            return self.get(conversation_id)

    def delete(self, conversation_id: int) -> None:
        """Delete a conversation with all its messages. Raises Gone."""
        with self._writing():
            self.get(conversation_id)
            self._connection.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))

    def duplicate(self, conversation_id: int) -> StoredConversation:
        """Copy a conversation with all its branches; the copy is the newest one. Raises Gone."""
        with self._writing():
            original, messages = self.tree(conversation_id)
            now = time.time()
            title = one_line(f"{original.title} (copy)")
            copy = replace(
                original, title=title, title_is_own=True, created=now, updated=now, pinned=False
            )
            return self.add_copy(copy, messages)

    def add_copy(
        self, conversation: StoredConversation, messages: Iterable[StoredMessage]
    ) -> StoredConversation:
        """Add a conversation from elsewhere under new ids; parents must precede their children.

        An answer that is still being written in the original is stored as cut.
        """
        with self._writing():
            copy_id = statements.insert_conversation(self._connection, conversation)
            ids: dict[int | None, int | None] = {None: None}
            for message in messages:
                own = replace(
                    message,
                    conversation_id=copy_id,
                    parent=ids[message.parent],
                    state=State.CUT if message.state is State.WRITING else message.state,
                )
                ids[message.id] = statements.insert_message(self._connection, own, writer=None)
            leaf = ids.get(conversation.leaf) or max(filter(None, ids.values()), default=None)
            statements.set_leaf(self._connection, copy_id, leaf)
            return self.get(copy_id)

    def search(self, words: str, limit: int = 100) -> list[tuple[StoredConversation, Found]]:
        """Return the conversations that contain these words, most recently updated first.

        All words must occur in one message or in the title; the last word may be a prefix. Any
        text is a valid query.
        """
        with self._snapshot():
            found = find(self._connection, self._has_index, words, limit)
            return [(self.get(each.conversation_id), each) for each in found]

    # Messages

    def path(self, conversation_id: int, leaf: int | None = None) -> list[StoredMessage]:
        """Return the messages from the first one to ``leaf``, by default the current leaf.

        Raises Gone.
        """
        with self._snapshot():
            current = self.get(conversation_id).leaf
            if leaf is not None:
                statements.require_message(self._connection, conversation_id, leaf)
                current = leaf
            if line := statements.get_line(self._connection, current):
                return line
            # A damaged file may have lost the leaf.
            newest = statements.newest_of(self._connection, conversation_id)
            return statements.get_line(self._connection, newest)

    def follow(self, conversation_id: int, ids: Sequence[int]) -> list[StoredMessage]:
        """Return the line that goes on from the messages ``ids`` of an earlier line.

        It leaves out those that were deleted since, with all that follows. It ends with the current
        leaf, if that is on this branch, or else with the branch's newest message. Raises Gone.
        """
        with self._snapshot():
            line = self.path(conversation_id)
            query = "SELECT id FROM messages WHERE conversation = ?"
            stored = {row["id"] for row in self._connection.execute(query, (conversation_id,))}
            kept = list(takewhile(stored.__contains__, ids))
            if not kept or kept[-1] in (message.id for message in line):
                return line
            newest = statements.newest_on_branch(self._connection, self.message(kept[-1]))
            return statements.get_line(self._connection, newest)

    def tree(self, conversation_id: int) -> tuple[StoredConversation, list[StoredMessage]]:
        """Return the conversation and the messages on all branches, parents before children.

        Raises Gone.
        """
        with self._snapshot():
            return (
                self.get(conversation_id),
                statements.get_tree(self._connection, conversation_id),
            )

    def message(self, message_id: int) -> StoredMessage:
        """Return one message. Raises Gone."""
        with self._snapshot():
            return statements.get_message(self._connection, message_id)

    def siblings(self, conversation_id: int) -> dict[int, tuple[int, ...]]:
        """Map the id of every message that has alternatives to the ids of all of them.

        The ids include the message's own, and the oldest comes first.
        """
        groups: dict[int | None, list[int]] = {}
        query = "SELECT id, parent FROM messages WHERE conversation = ? ORDER BY id"
        with self._reading():
            for id, parent in self._connection.execute(query, (conversation_id,)):
                groups.setdefault(parent, []).append(id)
        # All ids of a group share one tuple: n ids with a tuple each would take n² in memory.
        shared = [tuple(group) for group in groups.values() if len(group) > 1]
        return {id: group for group in shared for id in group}

    def add_message(
        self, conversation_id: int, parent: int | None, role: str, text: str
    ) -> StoredMessage:
        """Add a complete message after ``parent`` and make it the leaf. Raises Gone.

        ``parent``: None for a first message. If the parent already has children, the new message
        is an alternative to them: this is how messages are edited and conversations branch.
        """
        return self._add(conversation_id, parent, role, text, State.COMPLETE, "")

    def begin_answer(self, conversation_id: int, parent: int | None, model: str) -> StoredMessage:
        """Add an empty answer to ``parent``, to be written by this process. Raises Gone.

        ``parent``: None if the answer comes first, as it may in an imported conversation.
        """
        return self._add(conversation_id, parent, "assistant", "", State.WRITING, model)

    def continue_answer(self, message_id: int) -> StoredMessage:
        """Reopen a finished answer for writing by this process.

        Raises Gone, and UserError if the answer is being written now.
        """
        with self._writing():
            self._cut_answers_of_dead_writers()
            if self.message(message_id).state is State.WRITING:
                raise UserError(
                    "This answer is being written now, perhaps in another window; wait until it "
                    "has ended."
                )
            self._connection.execute(
                "UPDATE messages SET state = 'writing', writer = ? WHERE id = ?",
                (self._writers.own(), message_id),
            )
            return self.message(message_id)

    def save_answer(
        self,
        message_id: int,
        text: str,
        token_ids: Sequence[int],
        token_seconds: Sequence[float] = (),
        token_logprobs: Sequence[float] = (),
        state: State = State.WRITING,
        runs: Sequence[Run] = (),
    ) -> None:
        """Save the whole answer so far; it must be one that this process is writing.

        Raises Gone if the answer was deleted or another process has taken it over.
        """
        with self._writing():
            own = self._writers.own()
            values = {
                "text": statements.storable(text),
                "token_ids": packed_ids(token_ids),
                "token_seconds": packed_figures(token_seconds),
                "token_logprobs": packed_figures(token_logprobs),
                "runs": packed_runs(runs),
                "state": state.value,
                "writer": own if state is State.WRITING else None,
            }
            setting = ", ".join(f"{name} = :{name}" for name in values)
            changed = self._connection.execute(
                f"UPDATE messages SET {setting} "
                "WHERE id = :message AND (messages.writer IS NULL OR messages.writer = :own)",
                {**values, "message": message_id, "own": own},
            )
            if not changed.rowcount:
                raise Gone("The answer can no longer be saved: another window has deleted it.")
            self._connection.execute(
                "UPDATE conversations SET updated = ? "
                "WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (time.time(), message_id),
            )

    def choose(self, message_id: int) -> StoredConversation:
        """Show the branch through this message: its newest descendant becomes the leaf.

        Raises Gone.
        """
        with self._writing():
            message = self.message(message_id)
            leaf = statements.newest_on_branch(self._connection, message)
            statements.set_leaf(self._connection, message.conversation_id, leaf)
            return self.get(message.conversation_id)

    def delete_message(self, message_id: int) -> StoredConversation:
        """Delete a message and all its descendants. Raises Gone.

        If the leaf was among them, the newest remaining descendant of the message's parent becomes
        the leaf, or the parent itself.
        """
        with self._writing():
            message = self.message(message_id)
            before = self.get(message.conversation_id)
            statements.delete_branch(self._connection, message)
            after = self.get(message.conversation_id)
            if after.leaf != before.leaf:  # the database has set it to NULL
                leaf = statements.newest_of(self._connection, message.conversation_id)
                if message.parent is not None:
                    parent = self.message(message.parent)
                    leaf = statements.newest_on_branch(self._connection, parent)
                statements.set_leaf(self._connection, message.conversation_id, leaf)
            return self.get(message.conversation_id)

    def _add(
        self,
        conversation_id: int,
        parent: int | None,
        role: str,
        text: str,
        state: State,
        model: str,
    ) -> StoredMessage:
        now = time.time()
        new = StoredMessage(0, conversation_id, parent, role, text, state, model, now, (), (), ())
        with self._writing():
            self.get(conversation_id)
            if parent is not None:
                statements.require_message(self._connection, conversation_id, parent)
            writer = self._writers.own() if state is State.WRITING else None
            id = statements.insert_message(self._connection, new, writer)
            self._connection.execute(
                "UPDATE conversations SET updated = ?, leaf = ? WHERE id = ?",
                (now, id, conversation_id),
            )
            if role == "user":
                statements.derive_title(self._connection, conversation_id)
            return self.message(id)

    # Locks and transactions

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Hold the lock for a single query, or for several within a transaction."""
        with self._lock, explained(self._path):
            yield

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Run several queries that see the same state of the database.

        Answers whose writers have died are marked as cut first.
        """
        with self._reading():
            if self._connection.in_transaction:
                yield
                return
            self._cut_answers_of_dead_writers()
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:  # SQLite ends it itself on a damaged file
                    self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Make changes in one transaction, which may be the enclosing one."""
        with self._reading():
            if self._connection.in_transaction:
                yield
                return
            with transaction(self._connection):
                yield

    def _cut_answers_of_dead_writers(self) -> None:
        if dead := self._writers.dead():
            with self._writing():
                self._writers.cut_answers_of(dead)
