"""The verbs on conversations: what they change is on the disk when they return."""

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.history import tables
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

    Any thread may call any method; they take turns. A method that writes waits for the disk, some
    milliseconds as a rule, and for other processes up to ten seconds, so that an app saves an
    answer as it grows from a thread and not from its event loop. An answer must be given its last
    state (``save_answer``) however it ends; if the process ends instead, all others see it cut.

    Every method raises UserError where the database cannot be read or written (a full disk, a
    damaged file): nothing was changed then, and the same call may be made again later, as
    ``save_answer`` always saves the whole answer. Where a conversation or message is not there,
    or no longer, that error is Gone.
    """

    def __init__(self, path: Path | None) -> None:
        """``path``: the database, made where it is not there; None: in memory, gone with it.

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
                self._cut_answers_of_the_dead()
        except BaseException:
            self._connection.close()
            raise

    @property
    def file(self) -> Path | None:
        """The database; None: it is in memory."""
        return self._path

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; answers that this process has not ended are cut."""
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
        """Several calls as one change: all of it or, where one of them fails, nothing."""
        with self._writing():
            yield

    # Conversations

    def create(
        self, model: str = "", settings: Mapping[str, Any] | None = None, title: str = ""
    ) -> StoredConversation:
        """A conversation without messages. Without a title the first words of the user's first
        message will be it. ``settings``: anything that JSON can hold."""
        now = time.time()
        own = one_line(title)
        new = StoredConversation(0, own, bool(own), model, settings or {}, now, now, None, 0)
        with self._writing():
            return self.get(tables.insert_conversation(self._connection, new))

    def get(self, conversation: int) -> StoredConversation:
        """Raises Gone."""
        with self._reading():
            return tables.get_conversation(self._connection, conversation)

    def conversations(self, limit: int = -1) -> list[StoredConversation]:
        """All of them, or the first ``limit``, the one that was written to last first (see
        ``rows.by_day``)."""
        with self._reading():
            return tables.get_conversations(self._connection, limit)

    def latest(self) -> StoredConversation | None:
        """The conversation that was written to last; None where there is none."""
        with self._reading():
            return next(iter(tables.get_conversations(self._connection, limit=1)), None)

    def rename(self, conversation: int, title: str) -> StoredConversation:
        """Give it a title; a blank one brings the first words back. Raises Gone."""
        own = one_line(title)
        with self._writing():
            self._connection.execute(
                "UPDATE conversations SET title = ?, title_is_own = ? WHERE id = ?",
                (tables.stored(own), bool(own), conversation),
            )
            tables.derive_title(self._connection, conversation)
            return self.get(conversation)

    def set_model(
        self, conversation: int, model: str, settings: Mapping[str, Any]
    ) -> StoredConversation:
        """Remember which model goes on with it, and how. Raises Gone."""
        with self._writing():
            self._connection.execute(
                "UPDATE conversations SET model = ?, settings = ? WHERE id = ?",
                (tables.stored(model), json.dumps(settings), conversation),
            )
            return self.get(conversation)

    def delete(self, conversation: int) -> None:
        """Delete it with all its messages. Raises Gone."""
        with self._writing():
            self.get(conversation)
            self._connection.execute("DELETE FROM conversations WHERE id = ?", (conversation,))

    def duplicate(self, conversation: int) -> StoredConversation:
        """The same conversation with all branches once more, as the newest. Raises Gone."""
        with self._writing():
            original, messages = self.tree(conversation)
            now = time.time()
            title = one_line(f"{original.title} (copy)")
            copy = replace(original, title=title, title_is_own=True, created=now, updated=now)
            return self.add_copy(copy, messages)

    def add_copy(
        self, conversation: StoredConversation, messages: Iterable[StoredMessage]
    ) -> StoredConversation:
        """Add a conversation from elsewhere, with ids of its own; parents come before children.

        An answer that is still being written there is a cut one here.
        """
        with self._writing():
            copy = tables.insert_conversation(self._connection, conversation)
            ids: dict[int | None, int | None] = {None: None}
            for message in messages:
                own = replace(
                    message,
                    conversation=copy,
                    parent=ids[message.parent],
                    state=State.CUT if message.state is State.WRITING else message.state,
                )
                ids[message.id] = tables.insert_message(self._connection, own, writer=None)
            tables.set_leaf(self._connection, copy, ids[conversation.leaf])
            return self.get(copy)

    def search(self, words: str, limit: int = 100) -> list[tuple[StoredConversation, Found]]:
        """Conversations with these words in a message or the title, the one that was written to
        last first.

        All words must be there; of the last one its beginning is enough. Any text will do.
        """
        with self._snapshot():
            found = find(self._connection, self._has_index, words, limit)
            return [(self.get(each.conversation), each) for each in found]

    # Messages

    def path(self, conversation: int, leaf: int | None = None) -> list[StoredMessage]:
        """The messages from the first one to ``leaf``, or to the conversation's current one.

        Raises Gone.
        """
        with self._snapshot():
            current = self.get(conversation).leaf
            if leaf is not None:
                tables.require_message(self._connection, conversation, leaf)
                current = leaf
            return tables.get_line(self._connection, current)

    def tree(self, conversation: int) -> tuple[StoredConversation, list[StoredMessage]]:
        """The conversation and its messages on all branches, parents before children.

        Raises Gone.
        """
        with self._snapshot():
            return self.get(conversation), tables.get_tree(self._connection, conversation)

    def message(self, message: int) -> StoredMessage:
        """Raises Gone."""
        with self._snapshot():
            return tables.get_message(self._connection, message)

    def siblings(self, conversation: int) -> dict[int, tuple[int, ...]]:
        """For every message that has alternatives: all their ids, its own among them, the oldest
        first."""
        groups: dict[int | None, list[int]] = {}
        query = "SELECT id, parent FROM messages WHERE conversation = ? ORDER BY id"
        with self._reading():
            for id, parent in self._connection.execute(query, (conversation,)):
                groups.setdefault(parent, []).append(id)
        return {id: tuple(group) for group in groups.values() if len(group) > 1 for id in group}

    def add_message(
        self, conversation: int, parent: int | None, role: str, text: str
    ) -> StoredMessage:
        """Add a whole message after ``parent`` (None: as a first one) and make it the current one.

        Beside other messages of that parent it is an alternative: that is how a message is edited
        and the conversation branched. Raises Gone.
        """
        return self._add(conversation, parent, role, text, State.COMPLETE, "")

    def begin_answer(self, conversation: int, parent: int | None, model: str) -> StoredMessage:
        """Add an empty answer to ``parent``, which this process writes. Raises Gone.

        None: it comes first, as one that was imported may.
        """
        return self._add(conversation, parent, "assistant", "", State.WRITING, model)

    def continue_answer(self, message: int) -> StoredMessage:
        """Write on at an answer that has ended. Raises Gone, and UserError where it is being
        written."""
        with self._writing():
            self._cut_answers_of_the_dead()
            if self.message(message).state is State.WRITING:
                raise UserError("This answer is being written now, perhaps in another window.")
            self._connection.execute(
                "UPDATE messages SET state = 'writing', writer = ? WHERE id = ?",
                (self._writers.own(), message),
            )
            return self.message(message)

    def save_answer(
        self,
        message: int,
        text: str,
        token_ids: Sequence[int],
        token_seconds: Sequence[float] = (),
        token_logprobs: Sequence[float] = (),
        state: State = State.WRITING,
        runs: Sequence[Run] = (),
    ) -> None:
        """Save all that there is of an answer that this process writes.

        Raises Gone, also where another window has taken over.
        """
        with self._writing():
            own = self._writers.own()
            values = {
                "text": tables.stored(text),
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
                {**values, "message": message, "own": own},
            )
            if not changed.rowcount:
                raise Gone("The answer can no longer be saved: another window has deleted it.")
            self._connection.execute(
                "UPDATE conversations SET updated = ? "
                "WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (time.time(), message),
            )

    def choose(self, message: int) -> StoredConversation:
        """Make the newest message after this one, on any branch, the current one. Raises Gone."""
        with self._writing():
            row = self.message(message)
            leaf = tables.newest_on_branch(self._connection, row)
            tables.set_leaf(self._connection, row.conversation, leaf)
            return self.get(row.conversation)

    def delete_message(self, message: int) -> StoredConversation:
        """Delete a message and all that follow it on any branch.

        Where the current one was among them, the newest message that follows the same parent is
        the current one then, or that parent itself. Raises Gone.
        """
        with self._writing():
            row = self.message(message)
            before = self.get(row.conversation)
            tables.delete_branch(self._connection, row)
            after = self.get(row.conversation)
            if after.leaf != before.leaf:  # which the database has emptied
                leaf = tables.newest_of(self._connection, row.conversation)
                if row.parent is not None:
                    leaf = tables.newest_on_branch(self._connection, self.message(row.parent))
                tables.set_leaf(self._connection, row.conversation, leaf)
            return self.get(row.conversation)

    def _add(
        self,
        conversation: int,
        parent: int | None,
        role: str,
        text: str,
        state: State,
        model: str,
    ) -> StoredMessage:
        now = time.time()
        new = StoredMessage(0, conversation, parent, role, text, state, model, now, (), (), ())
        with self._writing():
            self.get(conversation)
            if parent is not None:
                tables.require_message(self._connection, conversation, parent)
            writer = self._writers.own() if state is State.WRITING else None
            id = tables.insert_message(self._connection, new, writer)
            self._connection.execute(
                "UPDATE conversations SET updated = ?, leaf = ? WHERE id = ?",
                (now, id, conversation),
            )
            if role == "user":
                tables.derive_title(self._connection, conversation)
            return self.message(id)

    # A thread's turn

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One query, or some within a transaction."""
        with self._lock, explained(self._path):
            yield

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Several queries that see the database as it is at one moment, and states of messages."""
        with self._reading():
            if self._connection.in_transaction:
                yield
                return
            self._cut_answers_of_the_dead()
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:  # not if SQLite gave up on a damaged file
                    self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._reading():
            if self._connection.in_transaction:
                yield
                return
            with transaction(self._connection):
                yield

    def _cut_answers_of_the_dead(self) -> None:
        if dead := self._writers.dead():
            with self._writing():
                self._writers.cut_answers_of(dead)
