"""Answers, one at a time: asked of the session, shown as they grow, and how each ended."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from textual.worker import Worker

from llama_cpu.errors import UserError
from llama_cpu.generation.events import Event, Finished, StopReason, Token, TurnsDropped
from llama_cpu.generation.timings import Timings
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.tui.controllers.answer_stream import AnswerStream
from llama_cpu.tui.widgets.message_views import Answer

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

ENDINGS = {
    StopReason.LENGTH: "The answer reached its longest allowed length; Ctrl+G continues it.",
    StopReason.CONTEXT: "The context is full: the answer ends here.",
    StopReason.STOPPED: "Stopped; Ctrl+G continues.",
}

UNFINISHED = {
    State.CUT: "The program ended while this was written; Ctrl+G continues the answer.",
    State.STOPPED: "This answer was stopped; Ctrl+G continues it.",
}

TakenBack = Callable[[str], None]


class Answering:
    """What the screen and the actions on a conversation share: the answer that is being written,
    and the lock that keeps two changes of the conversation apart.
    """

    def __init__(self, screen: "ChatScreen", model_thread: Executor) -> None:
        self._screen = screen
        self.model_thread = model_thread
        self._stream: AnswerStream[Event] | None = None  # set while an answer is being written
        self._worker: Worker[None] | None = None
        self.timings = Timings()
        self._began_after: StoredMessage | None = None
        # Held while the conversation and what is shown of it change together.
        self.changing = asyncio.Lock()

    @property
    def is_answering(self) -> bool:
        return self._stream is not None

    @property
    def is_busy(self) -> bool:
        """Whether nothing else may change the conversation now."""
        return self.is_answering or self.changing.locked()

    @property
    def timings_now(self) -> Timings | None:
        """Of the answer that is being written, until the conversation has it."""
        line = self._screen.conversation.line
        is_there = not line or line[-1] is not self._began_after
        return None if is_there or not self.is_answering else self.timings

    def stop(self) -> None:
        """Stop the answer and keep what was written."""
        if self._stream:
            self._stream.stop()

    async def stop_and_wait(self) -> None:
        """The same; until it has ended."""
        if self._stream and self._worker:
            self._stream.stop()
            await self._worker.wait()

    async def change(self, work: Callable[..., object], *arguments: object) -> bool:
        """Do what waits for the disk in a thread, and show the conversation as it is then.

        False, after it was said why, where that failed.
        """
        problem = ""
        try:
            await asyncio.to_thread(work, *arguments)
        except UserError as error:
            problem = str(error)
        await self.show(problem)
        return not problem

    async def show(self, problem: str = "") -> None:
        """Show the conversation, a problem and why it is not kept, if it is not."""
        screen = self._screen
        await screen.conversation_view.show(screen.conversation)
        for sentence in (problem, screen.conversation.take_trouble()):
            if sentence:
                screen.conversation_view.add_notice(sentence, kind="problem")
        screen.conversation_changed()

    def say_if_cut(self) -> None:
        """Where the last answer was cut: that it can be continued."""
        line = self._screen.conversation.line
        if line and line[-1].state in UNFINISHED:
            self._screen.conversation_view.add_notice(UNFINISHED[line[-1].state])

    def begin(self, take_back: TakenBack | None = None) -> None:
        """Have the last message answered. Where it cannot be, as it is too long, it is taken back
        and its text given to ``take_back``.
        """
        self._begin(AnswerStream(self._screen.session.answer, self.model_thread), None, take_back)

    def go_on(self) -> None:
        """Have the last message, an answer, continued."""
        stream = AnswerStream(self._screen.session.continue_answer, self.model_thread)
        # A character that is not whole comes again with what makes it whole.
        self._begin(stream, self._screen.conversation.line[-1].text.rstrip("\ufffd"), None)

    def _begin(
        self, stream: AnswerStream[Event], text: str | None, take_back: TakenBack | None
    ) -> None:
        self.timings = Timings()
        line = self._screen.conversation.line
        self._began_after = line[-1] if line else None
        self._stream = stream
        self._screen.refresh_bindings()
        work = self._answer(stream, text, take_back)
        self._worker = self._screen.run_worker(work, group="answer")

    async def _answer(
        self, stream: AnswerStream[Event], text: str | None, take_back: TakenBack | None
    ) -> None:
        screen = self._screen
        answer = await screen.conversation_view.begin_answer(screen.session.model_name, text)
        answer.say("is reading the prompt…")
        ending: Finished | None = None
        try:
            async for events in stream.batches():
                ending = await self._show_events(events, answer) or ending
        finally:  # also if the app is being closed
            stream.stop()
        await answer.finish()
        await self._end(stream, answer, take_back)
        if ending:
            self._show_ending(ending)
        self._stream = None
        screen.refresh_bindings()
        screen.show_timings()

    async def _show_events(self, events: list[Event], answer: Answer) -> Finished | None:
        text, ending = "", None
        for event in events:
            self.timings.observe(event)
            if isinstance(event, Token | Finished):
                text += event.text
            if isinstance(event, TurnsDropped):
                self._screen.conversation_view.add_notice(dropped(event.count), before=answer)
            elif isinstance(event, Finished):
                ending = event
        if text:
            await answer.append(text)
        return ending

    async def _end(
        self, stream: AnswerStream[Event], answer: Answer, take_back: TakenBack | None
    ) -> None:
        """The conversation has the answer, if there is one."""
        screen, problem = self._screen, ""
        conversation = screen.conversation
        has_answer = bool(conversation.line) and conversation.line[-1].role == "assistant"
        if has_answer:
            answer.message = conversation.line[-1]
        else:
            await answer.remove()
        if isinstance(stream.error, UserError):
            problem = str(stream.error)
        elif stream.error:
            screen.post_message(screen.AnswerFailed(stream.error))
            problem = failed(stream.error)
        try:
            if not has_answer and take_back and isinstance(stream.error, UserError):
                take_back(await asyncio.to_thread(conversation.take_back))
            elif not has_answer:  # an earlier answer to the same message is the last one again
                await asyncio.to_thread(conversation.reload)
        except UserError as error:  # the disk, or another window
            problem = f"{problem} {error}".strip()
        await self.show(problem)

    def _show_ending(self, finished: Finished) -> None:
        conversation = self._screen.conversation_view
        if finished.message:
            conversation.add_notice(finished.message, kind="problem")
        elif finished.reason in ENDINGS:
            conversation.add_notice(ENDINGS[finished.reason])


def failed(error: Exception, what: str = "The answer failed") -> str:
    """The notice that an answer raised what it should not have."""
    first_line = str(error).strip().partition("\n")[0].rstrip(". ")
    reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return f"{what}: {reason}; start with --debug to see where."


def dropped(count: int) -> str:
    """The notice that the context has become too small for the conversation."""
    if count == 1:
        return "The oldest message no longer fits in the context and was left out."
    return f"The {count} oldest messages no longer fit in the context and were left out."
