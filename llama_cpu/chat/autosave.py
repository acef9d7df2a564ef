"""Saves a growing answer twice a second, from its own thread."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from llama_cpu.errors import UserError
from llama_cpu.generation.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.history.rows import Run, State
from llama_cpu.history.store import History

SAVE_SECONDS = 0.5  # between saves; a kill or a power failure loses no more than this and a write
_COMPLETE = (StopReason.END, StopReason.STOP_STRING)


class Autosave:
    """Collects one answer and saves it.

    ``observe`` is called for every token and never waits for the disk: a thread saves the answer
    until ``finish``, which saves the final state.

    ``begin``: creates the answer in the database and returns its id; called before the first save.
    ``text``, ``token_ids``, ``token_seconds``, ``runs``: the stored contents of an answer that is
    continued. ``problem``: why the last save failed, or None.
    """

    def __init__(
        self,
        store: History,
        begin: Callable[[], int],
        end_ids: frozenset[int],
        text: str = "",
        token_ids: Sequence[int] = (),
        token_seconds: Sequence[float] = (),
        runs: Sequence[Run] = (),
    ) -> None:
        self._store = store
        self._begin = begin
        self._end_ids = end_ids
        self.message: int | None = None
        self.problem: UserError | None = None
        self.whole_text = text  # including leading spaces
        self.text = text.lstrip()
        self.token_ids = list(token_ids)
        # There is a time for every token or for none. The time of an end token is dropped, as the
        # continuation replaces that token.
        self._has_seconds = len(token_seconds) >= len(token_ids)
        self._token_seconds = list(token_seconds[: len(token_ids)] if self._has_seconds else ())
        self._earlier_runs = list(runs)
        self._run = Run(len(self._token_seconds), 0, 0, 0.0)
        self.is_empty = True
        self.state = State.STOPPED
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_saving, name="saving", daemon=True)

    def observe(self, event: Event) -> Event:
        """Record an event and return it with the text to be shown."""
        if isinstance(event, Finished):
            self._run = replace(self._run, ended=event.reason.value)
            if event.reason in _COMPLETE:
                self.state = State.COMPLETE
        if isinstance(event, Prefill):
            first = len(self._token_seconds)
            self._run = Run(first, event.reused, event.done, event.seconds)
        if not isinstance(event, Token | Finished):
            return event
        with self._changing:
            if isinstance(event, Token):
                self.is_empty = False
                if event.id not in self._end_ids:
                    self.token_ids.append(event.id)
                if self._has_seconds:
                    self._token_seconds.append(event.seconds)
                if event.drafted:
                    self._run = replace(self._run, drafted=self._run.drafted + 1)
            self.whole_text += event.text
            # Most models begin with a space or a line break, which is not shown.
            before, self.text = self.text, self.whole_text.lstrip()
        if not self.is_empty and not self._thread.ident:
            self._thread.start()
        return replace(event, text=self.text[len(before) :])

    def finish(self, token_ids: Sequence[int]) -> None:
        """Save the final state of the answer, with the token ids of its text."""
        self._ended.set()
        if self._thread.ident:
            self._thread.join()
        self.token_ids = list(token_ids)
        self._save(self.state)

    def save_into(self, store: History, begin: Callable[[], int]) -> None:
        """Save the whole answer in another store; ``problem`` is None if that worked."""
        self._store, self._begin, self.message = store, begin, None
        self._save(self.state)

    def _keep_saving(self) -> None:
        while not self._ended.wait(SAVE_SECONDS):
            self._save(State.WRITING)

    def _save(self, state: State) -> None:
        with self._changing:
            text, ids, seconds = self.text, list(self.token_ids), list(self._token_seconds)
            runs = [*self._earlier_runs, self._run]
        try:
            if self.message is None:
                self.message = self._begin()
            self._store.save_answer(self.message, text, ids, seconds, state=state, runs=runs)
            self.problem = None
        except UserError as error:
            self.problem = error
