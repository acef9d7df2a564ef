"""The token lens: the probability of each token of an answer, and branches from any token."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import Worker

from llama_cpu.chat.session_protocol import Session
from llama_cpu.errors import UserError
from llama_cpu.history.rows import StoredMessage
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.controllers.answer_stream import AnswerStream
from llama_cpu.tui.controllers.answering import failed
from llama_cpu.tui.controllers.view import Branch
from llama_cpu.tui.messages import AnswerFailed
from llama_cpu.tui.user_keys import keys_of
from llama_cpu.tui.widgets.lens_details import LensDetails
from llama_cpu.tui.widgets.lens_shades import (
    BY_PROBABILITY,
    BY_TIME,
    SHADES,
    by_probability,
    by_time,
    median_seconds,
)
from llama_cpu.tui.widgets.lens_text import LensText

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.lens import LensPart

EMPTY = "This answer is empty."
NOT_ITS_TOKENS = (
    "The loaded model did not write this answer, or its text was changed since. These are the "
    "tokens that this model reads the text as; their times are unknown."
)


class LensScreen(Screen[Branch | None]):
    """Shows one answer of the conversation at a time; the result is a branch from it."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    BINDINGS = bindings(Scope.LENS)

    def __init__(
        self,
        session: Session,
        answers: Sequence[StoredMessage],
        place: int,
        model_thread: Executor,
        keymap: Mapping[str, str],
    ) -> None:
        """``answers``: the conversation's; ``place``: the index of the first one to show."""
        super().__init__()
        self._session = session
        self._answers = answers
        self._place = place
        self._model_thread = model_thread
        self._keymap = keymap
        self._stream: AnswerStream[LensPart] | None = None
        self._worker: Worker[None] | None = None
        self._is_by_time = False
        self._usual: float | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="about", markup=False)
        with Container(id="lens"):
            with Vertical(id="lens-answer"):
                yield Static(id="lens-note", markup=False)
                yield LensText()
                yield Static(id="legend", markup=False)
            yield LensDetails()
        yield Footer()

    def on_mount(self) -> None:
        """Show the first answer."""
        self.query_one(LensText).focus()
        self._show_legend()
        self._look()

    def on_unmount(self) -> None:
        """Stop the model's work."""
        self.stop()

    def stop(self) -> None:
        """Stop reading the answer."""
        if self._stream:
            self._stream.stop()

    def on_key(self, event: events.Key) -> None:
        """Close the lens with the key that opens it, even if the user has changed that key."""
        if event.key in keys_of("lens", self._keymap).split(","):
            event.stop()
            self.dismiss(None)

    # One answer

    @property
    def _answer(self) -> StoredMessage:
        return self._answers[self._place]

    def _look(self) -> None:
        self.stop()
        self.query_one(LensText).clear()
        self._note("")
        self._point()
        self.refresh_bindings()
        answer = self._answer
        stream = AnswerStream(lambda stop: self._session.look(answer, stop), self._model_thread)
        self._stream = stream
        self._worker = self.run_worker(self._show(stream), group="lens", exclusive=True)

    async def _show(self, stream: "AnswerStream[LensPart]") -> None:
        self._say("waiting for the model")
        async for parts in stream.batches():
            if stream is not self._stream:
                return
            tokens = [token for part in parts for token in part.tokens]
            if tokens:
                self.query_one(LensText).extend(tokens)
            if parts and parts[-1].done < parts[-1].total:
                self._say(f"reading {parts[-1].done:,} of {parts[-1].total:,} tokens; Esc leaves")
        self._end(stream)

    def _end(self, stream: "AnswerStream[LensPart]") -> None:
        text = self.query_one(LensText)
        self._usual = median_seconds(text.tokens)
        text.shade(by_time if self._is_by_time else by_probability)
        self._point()
        self._show_legend()
        self._say(_count(len(text.tokens)))
        if isinstance(stream.error, UserError):
            self._note(str(stream.error))
        elif stream.error:
            self.post_message(AnswerFailed(stream.error))
            self._note(failed(stream.error, "The answer could not be read again"))
        elif not text.tokens:
            self._note(EMPTY)
        elif not self._session.is_own(self._answer):
            self._note(NOT_ITS_TOKENS)

    def _say(self, what: str) -> None:
        name = printable(self._answer.model) or "Assistant"
        number = f"answer {self._place + 1} of {len(self._answers)}"
        self.query_one("#about", Static).update(f"Token lens · {number} · {name} · {what}")

    def _note(self, sentence: str) -> None:
        """Show a sentence above the answer; empty for none."""
        note = self.query_one("#lens-note", Static)
        note.update(printable(sentence))
        note.display = bool(sentence)

    def _show_legend(self) -> None:
        text = self.query_one(LensText)
        names = BY_TIME if self._is_by_time else BY_PROBABILITY
        parts = [
            Content.styled(f" {name} ", shade) for name, shade in zip(names, SHADES, strict=True)
        ]
        if self._is_by_time and any(token.seconds is None for token in text.tokens):
            parts.append(Content(" unknown "))
        self.query_one("#legend", Static).update(Content(" ").join(parts))

    @on(LensText.Pointed)
    def _point(self) -> None:
        text = self.query_one(LensText)
        self.query_one(LensDetails).show(text.tokens, text.pointed, self._usual)

    # Keys

    def action_leave(self) -> None:
        """Go back from the alternatives to the tokens, or from the tokens to the chat."""
        text = self.query_one(LensText)
        if text.has_focus:
            self.dismiss(None)
        else:
            text.focus()

    def action_switch(self) -> None:
        """Switch between colouring by time and by probability."""
        self._is_by_time = not self._is_by_time
        self.query_one(LensText).shade(by_time if self._is_by_time else by_probability)
        self._show_legend()

    def action_answer(self, step: int) -> None:
        """Look at the previous (-1) or next (1) answer."""
        self._place += step
        self._look()

    def action_surprise(self) -> None:
        """Go to the next token that was not ranked first."""
        self.query_one(LensText).next_surprise()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim a key if there is no previous or next answer."""
        if action == "answer":
            [step] = parameters
            assert isinstance(step, int)
            return True if 0 <= self._place + step < len(self._answers) else None
        return True

    def action_choose(self) -> None:
        """Move the focus to the alternatives."""
        text = self.query_one(LensText)
        if text.tokens:
            text.stay()
            self.query_one(LensDetails).others.focus()

    @on(LensDetails.Chosen)
    def _chosen(self, event: LensDetails.Chosen) -> None:
        self.action_branch(event.number)

    def action_branch(self, number: int) -> None:
        """Close the lens and continue the answer from an alternative to the present token."""
        text = self.query_one(LensText)
        place = text.pointed
        if place is None or number >= len(text.tokens[place].alternatives):
            return
        ids = [token.id for token in text.tokens[:place]]
        ids.append(text.tokens[place].alternatives[number].id)
        # The same forward pass gave this token and its alternatives.
        seconds = [token.seconds for token in text.tokens[: place + 1]]
        known = [each for each in seconds if each is not None]
        self.dismiss(Branch(self._answer, ids, known if len(known) == len(ids) else []))


def _count(tokens: int) -> str:
    return f"{tokens:,} token" + ("s" if tokens != 1 else "")
