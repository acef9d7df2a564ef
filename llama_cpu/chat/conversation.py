"""The conversation that is shown. Every change is stored in the history."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_cpu.chat.autosave import Autosave
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Event
from llama_cpu.history.rows import Gone, State, StoredConversation, StoredMessage
from llama_cpu.history.store import History

GONE = (
    "This conversation, or the message before, was deleted in another window. Your text is still "
    "here: Enter sends it and saves what is shown as a new conversation, Ctrl+N begins anew."
)
GONE_WHILE_ANSWERING = (
    "This conversation was deleted in another window while the answer was written; your next "
    "message saves what is shown here as a new one."
)
GONE_ELSEWHERE = (
    "This conversation was deleted in another window; your next message saves what is shown here "
    "as a new one."
)
IN_MEMORY = "New messages are kept in memory only, until they can be saved again."

TidyIds = Callable[[list[int], str], list[int]]


@dataclass(frozen=True)
class News:
    """A conversation as it is after another window has changed it."""

    stored: StoredConversation | None  # None: it was deleted
    line: list[StoredMessage]
    alternatives: dict[int, tuple[int, ...]]


class Conversation:
    """One conversation: its line, and the alternatives to each message.

    The line is the branch that is shown: the messages from the first one to the leaf.

    A change is on disk when its method returns, so methods must be called where waiting for the
    disk is acceptable. If saving fails, the conversation continues in memory, and saving is tried
    again with each new message; ``take_trouble`` gives the reason. ``line`` is always complete.

    Methods raise Gone if another window has deleted the conversation or message.
    """

    def __init__(self, history: History, model: str = "", system: str = "") -> None:
        self.history = history
        self.model = model  # name of the loaded model, stored with its answers
        self.stored: StoredConversation | None = None  # None until the first message
        self.line: list[StoredMessage] = []
        self.system = self.default_system = system
        self.settings: Mapping[str, Any] = {}  # stored with the conversation
        self._alternatives: dict[int, tuple[int, ...]] = {}
        self._store = history  # where this conversation is stored now
        self._is_gone = False  # another window has deleted it, and this one shows it still
        self._trouble = ""

    @property
    def is_persistent(self) -> bool:
        """Whether the conversation survives the end of the program."""
        return self._store is self.history and self.history.file is not None

    @property
    def stored_id(self) -> int | None:
        """The conversation's id in the history; None while it is not stored there."""
        is_there = self._store is self.history and not self._is_gone
        return self.stored.id if self.stored and is_there else None

    def take_trouble(self) -> str:
        """Return why the conversation cannot be saved; "" if it can, or on a second call."""
        trouble, self._trouble = self._trouble, ""
        return trouble

    def alternatives(self, message: int) -> tuple[int, ...]:
        """Ids of the messages with the same parent, including its own, oldest first."""
        return self._alternatives.get(message, (message,))

    # Choosing a conversation

    def open(self, conversation_id: int) -> None:
        """Show another conversation, on the branch shown last. Raises Gone."""
        opened = self.history.get(conversation_id)
        line = self.history.path(conversation_id)
        self._forget()
        self.stored, self.line = opened, line
        self._alternatives = self.history.siblings(conversation_id)
        system = opened.settings.get("system")
        self.system = system if isinstance(system, str) else self.default_system
        self.settings = opened.settings

    def clear(self) -> None:
        """Begin a new conversation; the previous one stays in the history."""
        self._forget()
        self.system, self.settings = self.default_system, {}

    def save_settings(self) -> None:
        """Store the present settings and system prompt, if there are messages already."""
        if self.stored is not None:
            self._store.set_model(self.stored.id, self.model, self._all_settings())

    def pin(self, pinned: bool) -> None:
        """List the conversation before those that are not pinned, or no longer. Raises Gone."""
        if self.stored is not None:
            self.stored = self._store.pin(self.stored.id, pinned)

    def _all_settings(self) -> dict[str, Any]:
        system = {"system": self.system} if self.system else {}
        return {**system, **self.settings}

    def close(self) -> None:
        """Try once more to save messages that are only in memory. The caller closes the history."""
        self._back_to_disk()
        if self._store is not self.history:
            self._store.close()

    def _forget(self) -> None:
        self.close()
        self._store = self.history
        self.stored, self.line, self._alternatives = None, [], {}
        self._is_gone = False

    # Other windows

    @property
    def is_written_elsewhere(self) -> bool:
        """Whether another window is writing the last answer; it may have died meanwhile."""
        return bool(self.line) and self.line[-1].state is State.WRITING

    def news(self) -> News | None:
        """Read what another window has changed in this conversation; None if it is nothing.

        This window's branch stays, and goes on where the other window has added to it. Nothing is
        changed before ``take_over``, so this may run in a thread beside everything else.
        """
        stored, line = self.stored, self.line
        if stored is None or self._store is not self.history or self._is_gone:
            return None
        try:
            present = self.history.get(stored.id)
            # An answer that is continued, or cut, changes nothing but its own row.
            if present == stored and line and self.history.message(line[-1].id) == line[-1]:
                return None
            line = self.history.follow(stored.id, [message.id for message in line])
            news = News(present, line, self.history.siblings(stored.id))
            return None if news == News(stored, self.line, self._alternatives) else news
        except Gone:
            return News(None, line, self._alternatives)

    def take_over(self, news: News) -> None:
        """Show what ``news`` has read; the conversation must not have changed since.

        A conversation that was deleted stays as it is shown, until a message saves it again.
        """
        self._is_gone = news.stored is None
        self._trouble = GONE_ELSEWHERE if self._is_gone else self._trouble
        self.stored = news.stored or self.stored
        self.line, self._alternatives = news.line, news.alternatives

    # Messages

    def add_user(self, text: str, place: int | None = None) -> None:
        """Add a message at the end, or as an alternative to the one at index ``place`` of the line.

        If another window is still writing the answer before the message, it follows a copy of what
        is written: each window has its own branch.

        Raises Gone; repeating the call then stores what is shown as a new conversation.
        """
        if self._is_gone:
            self._move_to_memory(self.line, "")
        self._back_to_disk()
        try:
            self._add_user(self.line[:place], text)
        except Gone as error:
            self._move_to_memory(self.line, "")
            raise Gone(GONE) from error
        except UserError as error:
            self._move_to_memory(self.line, f"{error} {IN_MEMORY}")
            self._add_user(self.line[:place], text)

    def take_back(self) -> str:
        """Delete the last message, if it is the user's, and return its text (else "")."""
        if not self.line or self.line[-1].role != "user":
            return ""
        text = self.line[-1].text
        self._delete(self.line[-1].id)
        return text

    def delete_last_turn(self) -> bool:
        """Delete the last user message and all that follows; False if there is none."""
        for message in reversed(self.line):
            if message.role == "user":
                self._delete(message.id)
                return True
        return False

    def add_answer(
        self,
        place: int,
        text: str,
        token_ids: Sequence[int],
        token_seconds: Sequence[float],
        state: State,
        model: str | None = None,
    ) -> None:
        """Add an alternative to the answer at index ``place`` of the line. Raises Gone.

        ``model``: the name of the model whose answer it is, by default of the loaded one.
        """
        self._back_to_disk()
        answer = (text, token_ids, token_seconds, state, self.model if model is None else model)
        try:
            self._add_answer(place, *answer)
        except Gone:
            raise
        except UserError as error:
            self._move_to_memory(self.line, f"{error} {IN_MEMORY}")
            self._add_answer(place, *answer)

    def edit_answer(self, place: int, text: str) -> None:
        """Add the user's version of the answer at index ``place`` of the line, as an alternative.

        It has no token ids and no times, as those of the answer belong to the text before; the
        model reads it as its text is encoded. Like every answer, it begins without white space.
        Raises Gone; repeating the call then stores what is shown as a new conversation.
        """
        try:
            model = self.line[place].model
            self.add_answer(place, text.lstrip(), (), (), State.COMPLETE, model)
        except Gone as error:
            self._move_to_memory(self.line, "")
            raise Gone(GONE) from error

    def set_aside_answer(self) -> bool:
        """Remove the last answer from the line, so that another one can be generated.

        It remains stored as an alternative. Returns False if there is no answer at the end.
        """
        if self.line and self.line[-1].role == "assistant":
            self.line = self.line[:-1]
            return True
        return False

    def choose(self, message: int) -> None:
        """Show the branch through this message."""
        stored = self._store.choose(message)
        self._show(stored.id, stored.leaf)

    def reload(self) -> None:
        """Show the line as it is stored, on this branch."""
        if self.stored is not None:
            self._follow(self.stored.id)

    # Answers

    def autosave_answer(
        self, events: Iterator[Event], end_ids: frozenset[int], tidy: TidyIds
    ) -> Iterator[Event]:
        """Pass on the events of an answer to the last message, and save it while it grows.

        ``tidy(ids, text)``: truncates the ids to those of the text. Afterwards, however the events
        end, the answer is the last message, unless no token was generated.
        """

        def begin() -> int:
            assert self.stored is not None
            parent = self.line[-1].id
            return self._store.begin_answer(self.stored.id, parent, self.model).id

        yield from self._written(Autosave(self._store, begin, end_ids), events, begin, tidy)

    def autosave_continuation(
        self,
        events: Iterator[Event],
        end_ids: frozenset[int],
        tidy: TidyIds,
        text: str,
        token_ids: Sequence[int],
    ) -> Iterator[Event]:
        """Pass on the events of a continuation of the last answer, and save it while it grows.

        ``text``, ``token_ids``: the answer so far, including leading spaces. Raises UserError if
        the answer is being written in another window.
        """

        def begin() -> int:
            return self._store.continue_answer(self.line[-1].id).id

        before = self.line[-1]
        try:
            message = begin()  # at once, as another window may be writing it
        except Gone:
            raise
        except UserError as error:
            if self._store.message(before.id).state is State.WRITING:
                raise
            self._move_to_memory(self.line, f"{error} {IN_MEMORY}")
            message = begin()
        seconds, runs = before.token_seconds, before.runs
        writing = Autosave(self._store, begin, end_ids, text, token_ids, seconds, runs)
        writing.message = message
        try:
            yield from self._written(writing, events, begin, tidy)
        finally:
            if writing.is_empty:  # nothing was added: restore its state
                figures = (before.token_ids, before.token_seconds, before.token_logprobs)
                with contextlib.suppress(UserError):  # the answer then counts as cut
                    self._store.save_answer(message, before.text, *figures, before.state, runs)

    def _written(
        self,
        writing: Autosave,
        events: Iterator[Event],
        begin: Callable[[], int],
        tidy: TidyIds,
    ) -> Iterator[Event]:
        try:
            for event in events:
                yield writing.observe(event)
        finally:  # also if the consumer stops iterating
            if not writing.is_empty:
                writing.finish(tidy(writing.token_ids, writing.whole_text))
                self._end_writing(writing, begin)

    def _end_writing(self, writing: Autosave, begin: Callable[[], int]) -> None:
        if writing.problem:
            gone = isinstance(writing.problem, Gone)
            trouble = GONE_WHILE_ANSWERING if gone else f"{writing.problem} {IN_MEMORY}"
            self._move_to_memory(self.line, trouble)
            writing.save_into(self._store, begin)
        assert self.stored is not None
        self._show(self.stored.id, writing.message)

    # Storage

    def _add_user(self, before: list[StoredMessage], text: str) -> None:
        store, stored = self._store, self.stored
        parent = before[-1].id if before else None
        with store.together():
            if stored is None:
                stored = store.create(self.model, self._all_settings())
            elif stored.model != self.model:
                store.set_model(stored.id, self.model, self._all_settings())
            if before and store.message(before[-1].id).state is State.WRITING:
                parent = self._copy_unfinished(before[-1])
            message = store.add_message(stored.id, parent, "user", text)
        self._show(stored.id, message.id)

    def _copy_unfinished(self, answer: StoredMessage) -> int:
        """Add an answer as far as it is written, beside itself; returns the copy's id."""
        store, figures = (
            self._store,
            (answer.token_ids, answer.token_seconds, answer.token_logprobs),
        )
        copy = store.begin_answer(answer.conversation_id, answer.parent, answer.model).id
        store.save_answer(copy, answer.text, *figures, State.STOPPED, answer.runs)
        return copy

    def _add_answer(
        self,
        place: int,
        text: str,
        token_ids: Sequence[int],
        token_seconds: Sequence[float],
        state: State,
        model: str,
    ) -> None:
        assert self.stored is not None
        parent = self.line[place].parent
        with self._store.together():
            message = self._store.begin_answer(self.stored.id, parent, model).id
            self._store.save_answer(message, text, token_ids, token_seconds, state=state)
        self._show(self.stored.id, message)

    def _delete(self, message: int) -> None:
        """Delete a message and all that follows, and the conversation once it is empty."""
        assert self.stored is not None
        after = self._store.delete_message(message)
        if after.message_count:
            self._follow(after.id)
        else:
            self._store.delete(after.id)
            self.stored, self.line, self._alternatives = None, [], {}

    def _follow(self, conversation_id: int) -> None:
        """Show what is stored of the present line, and what follows it."""
        line = self._store.follow(conversation_id, [message.id for message in self.line])
        self._show(conversation_id, line[-1].id if line else None)

    def _show(self, conversation_id: int, leaf: int | None = None) -> None:
        self.stored = self._store.get(conversation_id)
        self.line = self._store.path(conversation_id, leaf)
        self._alternatives = self._store.siblings(conversation_id)

    def _move_to_memory(self, line: list[StoredMessage], trouble: str) -> None:
        """Continue with these messages in memory."""
        self._trouble, self._is_gone = trouble, False
        memory = History(None)
        now = time.time()
        settings = self._all_settings()
        blank = StoredConversation(0, "", False, self.model, settings, now, now, None, 0)
        self._copy(memory, self.stored or blank, line)

    def _back_to_disk(self) -> None:
        if self._store is self.history or self.stored is None or not self.line:
            return
        memory = self._store
        with contextlib.suppress(UserError):  # otherwise it stays in memory
            self._copy(self.history, self.stored, self.line)
            memory.close()

    def _copy(self, store: History, stored: StoredConversation, line: list[StoredMessage]) -> None:
        """Continue in ``store``, with a copy of these messages."""
        if not line:
            self._store, self.stored, self.line = store, None, []
            return
        copy = store.add_copy(replace(stored, leaf=line[-1].id), line)
        self._store = store
        self._show(copy.id)
