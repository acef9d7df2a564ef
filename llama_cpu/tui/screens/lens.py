"""The token lens: an answer as the model sees it, token by token, and branches from any of them."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import Worker

from llama_cpu.errors import UserError
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.system.text import printable
from llama_cpu.tui.controllers.answer_stream import AnswerStream
from llama_cpu.tui.controllers.answering import failed
from llama_cpu.tui.keys import keys_of
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
from llama_cpu.tui.widgets.message_views import UserMessage

if TYPE_CHECKING:
    from llama_cpu.chat.lens import LensPart
    from llama_cpu.chat.session import ChatSession
    from llama_cpu.tui.screens.chat import ChatScreen

NO_ANSWER = "There is no answer to look at yet"
EMPTY = "This answer is empty."
STILL_ANSWERING = "The answer is still being written; Esc stops it"
NOT_ITS_TOKENS = (
    "The loaded model did not write this answer, or its text was changed since: these are the "
    "tokens that the text is to this model, and their times are not known."
)


def _key(key: str, action: str, footer: str, about: str, name: str = "") -> Binding:
    return Binding(
        key,
        action,
        footer or about,
        show=bool(footer),
        key_display="Esc" if key == "escape" else None,
        tooltip=about,
        id=f"lens_{name or action}",
    )


@dataclass(frozen=True)
class Branch:
    """Where an answer is to go on otherwise."""

    answer: StoredMessage
    token_ids: list[int]  # up to and including the chosen alternative
    seconds: list[float]  # of each, or none


class LensScreen(Screen[Branch | None]):
    """One answer at a time, of those of the conversation."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    BINDINGS = [
        _key("escape", "leave", "Back", "to the tokens, then to the chat"),
        _key("t", "switch", "Time", "colour by time, or by probability"),
        _key("enter", "choose", "Others", "the alternatives; Enter branches"),
        *[
            _key(f"{n}", f"branch({n - 1})", "", f"go on from here with alternative {n}", f"{n}")
            for n in range(1, 6)
        ],
        _key("s", "surprise", "Surprise", "the next that was not most probable"),
        _key("p", "answer(-1)", "Before", "the answer before", "previous"),
        _key("n", "answer(1)", "After", "the answer after", "next"),
        _key("f4", "dismiss(None)", "", "back to the chat", "close"),
    ]

    def __init__(
        self,
        session: "ChatSession",
        answers: Sequence[StoredMessage],
        place: int,
        model_thread: Executor,
    ) -> None:
        """``answers``: those of the conversation; ``place``: the one to begin with."""
        super().__init__()
        self._session = session
        self._answers = answers
        self._place = place
        self._model_thread = model_thread
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
        """Begin with the answer that was asked for."""
        self.query_one(LensText).focus()
        self._show_legend()
        self._look()

    def on_unmount(self) -> None:
        """Leave the model alone, however this ends."""
        self.stop()

    def stop(self) -> None:
        """Read no further."""
        if self._stream:
            self._stream.stop()

    def on_key(self, event: events.Key) -> None:
        """The key that opens it closes it, also where that is the user's own."""
        keys = keys_of("lens", self.app.keymap)  # type: ignore[attr-defined]
        if event.key in keys.split(","):
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
            self.app.answer_errors.append(stream.error)  # type: ignore[attr-defined]
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
        """Above the answer; nothing if empty."""
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
            parts.append(Content(" not known "))
        self.query_one("#legend", Static).update(Content(" ").join(parts))

    @on(LensText.Pointed)
    def _point(self) -> None:
        text = self.query_one(LensText)
        self.query_one(LensDetails).show(text.tokens, text.pointed, self._usual)

    # Keys

    def action_leave(self) -> None:
        """From the alternatives back to the tokens; from there, to the chat."""
        text = self.query_one(LensText)
        if text.has_focus:
            self.dismiss(None)
        else:
            text.focus()

    def action_switch(self) -> None:
        """Colour by time instead of probability, or back."""
        self._is_by_time = not self._is_by_time
        self.query_one(LensText).shade(by_time if self._is_by_time else by_probability)
        self._show_legend()

    def action_answer(self, step: int) -> None:
        """Look at the answer before or after."""
        self._place += step
        self._look()

    def action_surprise(self) -> None:
        """To the next that was not most probable."""
        self.query_one(LensText).next_surprise()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There may be no answer before or after."""
        if action == "answer":
            [step] = parameters
            assert isinstance(step, int)
            return True if 0 <= self._place + step < len(self._answers) else None
        return True

    def action_choose(self) -> None:
        """Go to the alternatives."""
        text = self.query_one(LensText)
        if text.tokens:
            text.stay()
            self.query_one(LensDetails).others.focus()

    @on(LensDetails.Chosen)
    def _chosen(self, event: LensDetails.Chosen) -> None:
        self.action_branch(event.number)

    def action_branch(self, number: int) -> None:
        """Leave, for the answer to go on with an alternative of the token that is told of."""
        text = self.query_one(LensText)
        place = text.pointed
        if place is None or number >= len(text.tokens[place].alternatives):
            return
        ids = [token.id for token in text.tokens[:place]]
        ids.append(text.tokens[place].alternatives[number].id)
        # The pass that gave this token gave its alternatives, too.
        seconds = [token.seconds for token in text.tokens[: place + 1]]
        known = [each for each in seconds if each is not None]
        self.dismiss(Branch(self._answer, ids, known if len(known) == len(ids) else []))


def _count(tokens: int) -> str:
    return f"{tokens:,} token" + ("s" if tokens != 1 else "")


def show_lens(screen: "ChatScreen") -> None:
    """Look at the answer to the chosen message, or the last one; go on as is chosen there."""
    if screen.app.screen is not screen:  # the key was pressed twice
        return
    if screen.answering.is_busy:
        screen.prompt.say(STILL_ANSWERING)
        return
    answers = [message for message in screen.conversation.line if message.role == "assistant"]
    if not answers:
        screen.prompt.say(NO_ANSWER)
        return

    def left(branch: Branch | None) -> None:
        if branch:
            screen.run_worker(_go_on(screen, branch), group="command")

    place = _place_of_chosen(screen, answers)
    lens = LensScreen(screen.session, answers, place, screen.answering.model_thread)
    screen.app.push_screen(lens, left)


async def _go_on(screen: "ChatScreen", branch: Branch) -> None:
    answering = screen.answering
    async with answering.changing:
        work = (screen.session.branch, branch.answer, branch.token_ids, branch.seconds)
        if not await answering.change(*work):
            return
        if screen.conversation.line[-1].state is not State.COMPLETE:
            answering.go_on()


def _place_of_chosen(screen: "ChatScreen", answers: Sequence[StoredMessage]) -> int:
    chosen, parents = screen.focused, [answer.parent for answer in answers]
    if isinstance(chosen, UserMessage) and chosen.message.id in parents:
        return parents.index(chosen.message.id)
    return len(answers) - 1
