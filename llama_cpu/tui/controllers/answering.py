"""Requests answers from the session, one at a time, and shows them as they grow and end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from textual.worker import Worker

from llama_cpu.chat.conversation import Conversation
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Event, Finished, StopReason, Token, TurnsDropped
from llama_cpu.generation.timings import Timings
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.tui.controllers.answer_stream import AnswerStream
from llama_cpu.tui.controllers.view import AnswerView, ChatView
from llama_cpu.tui.messages import AnswerFailed

ENDINGS = {
    StopReason.LENGTH: "The answer reached its maximum length; Ctrl+G continues it.",
    StopReason.CONTEXT: "The context is full: the answer ends here.",
    StopReason.REPETITION: "The answer repeated itself and was ended; Ctrl+G continues it.",
    StopReason.STOPPED: "Stopped; Ctrl+G continues.",
}

UNFINISHED = {
    State.CUT: "The program ended during this answer; Ctrl+G continues it.",
    State.STOPPED: "This answer is unfinished; Ctrl+G continues it.",
}

# The same ending where Ctrl+R would write another answer: not at temperature 0.
REPEATED = (
    "The answer repeated itself and was ended; Ctrl+G continues it, Ctrl+R writes another one."
)

TakeBack = Callable[[str], None]

WAITS = "answers once it is loaded; Esc takes your message back…"
NO_TAKE_BACK = "Your message waits in its conversation without an answer; Ctrl+G answers it there."


@dataclass(frozen=True)
class _Waiting:
    """The last message of the conversation, which is answered once a model is loaded."""

    shown: AnswerView
    take_back: TakeBack | None


class Answering:
    """The answer in progress, and the lock that serializes changes to the conversation.

    All controllers share this object.
    """

    def __init__(self, view: ChatView, model_thread: Executor) -> None:
        self._view = view
        self._model_thread = model_thread
        self._stream: AnswerStream[Event] | None = None  # set while an answer is being written
        self._worker: Worker[None] | None = None
        self._waiting: _Waiting | None = None
        self.timings = Timings()
        self._began_after: StoredMessage | None = None
        # Held while the conversation and the view of it change together.
        self.changing = asyncio.Lock()
        self._caught_up = asyncio.Event()  # with what other windows have changed
        self._caught_up.set()

    @property
    def _conversation(self) -> Conversation:
        return self._view.conversation

    @property
    def is_answering(self) -> bool:
        return self._stream is not None

    @property
    def is_waiting(self) -> bool:
        """Whether the last message waits for a model."""
        return self._waiting is not None

    @property
    def is_busy(self) -> bool:
        """Whether nothing else may change the conversation now."""
        return self.is_answering or self.is_waiting or self.changing.locked()

    @property
    def can_vary(self) -> bool:
        """Whether the model answers differently each time, as far as is known."""
        return self._view.has_model and self._view.session.settings.temperature > 0

    @contextlib.asynccontextmanager
    async def catching_up(self) -> AsyncIterator[None]:
        """Hold ``changing`` while changes of another window are shown."""
        self._caught_up.clear()
        try:
            async with self.changing:
                yield
        finally:
            self._caught_up.set()

    async def catch_up(self) -> None:
        """Wait until changes of another window are shown, so that they refuse no key press."""
        await self._caught_up.wait()

    @property
    def timings_now(self) -> Timings | None:
        """The timings of the answer in progress; None once the conversation contains it."""
        line = self._conversation.line
        is_there = not line or line[-1] is not self._began_after
        return None if is_there or not self.is_answering else self.timings

    def stop(self) -> None:
        """Stop the answer and keep what was written, or take back a message that waits."""
        if self._stream:
            self._stream.stop()
        elif self._waiting:
            self._view.run_worker(self.take_back(), group="answer")

    async def stop_and_wait(self) -> None:
        """Stop the answer and wait until it has ended; a message that waits stays unanswered."""
        if self._stream and self._worker:
            self._stream.stop()
            await self._worker.wait()
        elif await self._end_waiting():
            self._view.warn(NO_TAKE_BACK)

    async def change(self, work: Callable[..., object], *arguments: object) -> bool:
        """Call ``work``, which may wait for the disk, in a thread; then show the conversation.

        Returns False if it raised a UserError, which is shown.
        """
        problem = ""
        try:
            await asyncio.to_thread(work, *arguments)
        except UserError as error:
            problem = str(error)
        await self.show(problem)
        return not problem

    async def show(self, problem: str = "") -> None:
        """Show the conversation, a problem, and the reason if the conversation is not saved."""
        view = self._view
        await view.conversation_view.show(self._conversation)
        for sentence in (problem, self._conversation.take_trouble()):
            if sentence:
                view.conversation_view.add_notice(sentence, kind="problem")
        view.conversation_changed()

    def say_if_cut(self) -> None:
        """If the last answer is unfinished, say that it can be continued."""
        line = self._conversation.line
        if line and line[-1].state in UNFINISHED:
            notice = unfinished(line[-1], self.can_vary)
            self._view.conversation_view.add_notice(notice)

    # A message that was sent before the model was loaded

    async def wait(self, take_back: TakeBack | None = None) -> None:
        """Show that the last message waits for a model; ``take_back`` as in ``begin``."""
        shown = await self._view.conversation_view.begin_answer("The model")
        shown.say(WAITS)
        self._waiting = _Waiting(shown, take_back)
        self._view.refresh_bindings()

    async def begin_waiting(self) -> None:
        """Answer the message that waits, as there is a model now."""
        async with self.changing:
            if waiting := await self._end_waiting():
                with contextlib.suppress(UserError):  # only the model's name is missing then
                    await asyncio.to_thread(self._conversation.save_settings)
                self.begin(waiting.take_back)

    async def take_back(self) -> None:
        """Remove the message that waits from the conversation and return its text to the input."""
        async with self.changing:
            waiting = await self._end_waiting()
            if waiting and waiting.take_back:
                problem = ""
                try:
                    waiting.take_back(await asyncio.to_thread(self._conversation.take_back))
                except UserError as error:  # the disk failed, or another window deleted it
                    problem = str(error)
                await self.show(problem)

    async def _end_waiting(self) -> _Waiting | None:
        waiting, self._waiting = self._waiting, None
        if waiting:
            await waiting.shown.remove()
            self._view.refresh_bindings()
        return waiting

    # Answers

    def begin(self, take_back: TakeBack | None = None) -> None:
        """Answer the last message.

        If the session refuses the message, for instance because it is too long, the message is
        removed from the conversation and its text passed to ``take_back``.
        """
        self._begin(AnswerStream(self._view.session.answer, self._model_thread), None, take_back)

    def go_on(self) -> None:
        """Continue the last message, which is an answer."""
        stream = AnswerStream(self._view.session.continue_answer, self._model_thread)
        # An incomplete character at the end is generated again, together with its remaining bytes.
        self._begin(stream, self._conversation.line[-1].text.rstrip("\ufffd"), None)

    def _begin(
        self, stream: AnswerStream[Event], text: str | None, take_back: TakeBack | None
    ) -> None:
        self.timings = Timings()
        line = self._conversation.line
        self._began_after = line[-1] if line else None
        self._stream = stream
        self._view.refresh_bindings()
        work = self._answer(stream, text, take_back)
        self._worker = self._view.run_worker(work, group="answer")

    async def _answer(
        self, stream: AnswerStream[Event], text: str | None, take_back: TakeBack | None
    ) -> None:
        view, session = self._view, self._view.session
        answer = await view.conversation_view.begin_answer(
            session.model_name, text, lambda: session.begins_in_thinking
        )
        answer.say("is reading the prompt…")
        ending: Finished | None = None
        try:
            async for events in stream.batches():
                ending = await self._show_events(events, answer) or ending
        finally:  # even if the app is being closed
            stream.stop()
            self.timings.is_stopped = True
        await answer.finish()
        await self._end(stream, answer, take_back)
        if ending:
            self._show_ending(ending)
        self._stream = None
        view.refresh_bindings()
        view.show_timings()

    async def _show_events(self, events: list[Event], answer: AnswerView) -> Finished | None:
        text, ending = "", None
        for event in events:
            self.timings.observe(event)
            if isinstance(event, Token | Finished):
                text += event.text
            if isinstance(event, TurnsDropped):
                answer.add_notice_above(dropped(event.count))
            elif isinstance(event, Finished):
                ending = event
        if text:
            await answer.append(text)
        return ending

    async def _end(
        self, stream: AnswerStream[Event], answer: AnswerView, take_back: TakeBack | None
    ) -> None:
        """Link the view of the answer to the stored message, or remove it if there is none."""
        problem, conversation = "", self._conversation
        has_answer = bool(conversation.line) and conversation.line[-1].role == "assistant"
        if has_answer:
            answer.keep(conversation.line[-1])
        else:
            await answer.remove()
        if isinstance(stream.error, UserError):
            problem = str(stream.error)
        elif stream.error:
            self._view.post_message(AnswerFailed(stream.error))
            problem = failed(stream.error)
        try:
            if not has_answer and take_back and isinstance(stream.error, UserError):
                take_back(await asyncio.to_thread(conversation.take_back))
            elif not has_answer:  # an earlier answer to the same message is the last one again
                await asyncio.to_thread(conversation.reload)
        except UserError as error:  # the disk failed, or another window deleted it
            problem = f"{problem} {error}".strip()
        await self.show(problem)

    def _show_ending(self, finished: Finished) -> None:
        conversation_view = self._view.conversation_view
        if finished.message:
            conversation_view.add_notice(finished.message, kind="problem")
        elif finished.reason in ENDINGS:
            conversation_view.add_notice(_ending(finished.reason, self.can_vary))


def _ending(reason: StopReason, can_vary: bool) -> str:
    return REPEATED if can_vary and reason is StopReason.REPETITION else ENDINGS[reason]


def unfinished(answer: StoredMessage, can_vary: bool) -> str:
    """The notice for a stored answer that is cut or stopped: why it ended, as far as known.

    ``can_vary``: whether another answer to the same message would be a different one.
    """
    if answer.state is State.STOPPED and answer.runs:
        for reason in (StopReason.LENGTH, StopReason.CONTEXT, StopReason.REPETITION):
            if answer.runs[-1].ended == reason.value:
                return _ending(reason, can_vary)
    return UNFINISHED[answer.state]


def failed(error: Exception, what: str = "The answer failed") -> str:
    """The notice for an answer that ended in an unexpected exception."""
    first_line = str(error).strip().partition("\n")[0].rstrip(". ")
    reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return f"{what}: {reason}; start with --debug to see where."


def dropped(count: int) -> str:
    """The notice for messages that no longer fit in the context."""
    if count == 1:
        return "The oldest message no longer fits in the context and was left out."
    return f"The {count} oldest messages no longer fit in the context and were left out."
