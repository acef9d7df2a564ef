"""The chat: wires the prompt, the conversation, the panels and the model's answers together."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import Worker

from llama_cpu.errors import UserError
from llama_cpu.events import Event, Finished, StopReason, Token, TurnsDropped
from llama_cpu.machine import memory_report
from llama_cpu.timings import Timings
from llama_cpu.tui import about
from llama_cpu.tui.answer_stream import AnswerStream
from llama_cpu.tui.confirm import Confirm
from llama_cpu.tui.conversation import Conversation
from llama_cpu.tui.memory_panel import MemoryPanel, model_memory
from llama_cpu.tui.messages import Answer
from llama_cpu.tui.prompt import Prompt
from llama_cpu.tui.summary import Summary, answer_parts, memory_parts
from llama_cpu.tui.timing_panel import TimingPanel

if TYPE_CHECKING:
    from llama_cpu.chat.session import ChatSession

STILL_ANSWERING = "Your text is kept: Esc stops the answer, or wait and press Enter again"
NOTHING_TO_REGENERATE = "There is no answer yet to write again"
ENDINGS = {
    StopReason.LENGTH: "The answer reached its longest allowed length.",
    StopReason.CONTEXT: "The context is full: the answer ends here.",
    StopReason.STOPPED: "Stopped.",
}


class ChatScreen(Screen[None]):
    """One conversation with one model."""

    # The panels need room beside the conversation; otherwise one line says what matters most.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]
    BINDINGS = [
        Binding("escape", "stop", "Stop", key_display="Esc"),
        Binding("ctrl+n", "new_conversation", "New"),
        Binding("ctrl+r", "regenerate", "Regenerate"),
        # Priority, as the focus is in the prompt, which would move its own cursor.
        Binding("pageup", "scroll(-1)", "Scroll up", show=False, priority=True),
        Binding("pagedown", "scroll(1)", "Scroll down", show=False, priority=True),
    ]

    class AnswerFailed(Message):
        """An answer raised what it should not have."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(self, session: "ChatSession", is_demo: bool, model_thread: Executor) -> None:
        super().__init__()
        self._session = session
        self._is_demo = is_demo
        self._model_thread = model_thread
        self._timings = Timings()
        self._report = memory_report()
        self._stream: AnswerStream | None = None  # set while an answer is being written
        self._answering: Worker[None] | None = None
        # Held while the session's messages and what is shown of them change together.
        self._changing = asyncio.Lock()

    def compose(self) -> ComposeResult:
        yield Static(about.title(self._session), markup=False, id="about")
        with Horizontal(id="main"):
            with Vertical(id="left"):
                yield Conversation(self._session.model_name)
                yield Summary()
                yield Prompt()
            with Vertical(id="side"):
                yield TimingPanel()
                yield MemoryPanel()
        yield Footer()

    async def on_mount(self) -> None:
        """Show what is there already and begin to measure."""
        if self.app.return_value is not None:  # quit just now: the widgets may be gone already
            return
        if self._is_demo:
            self._conversation.add_notice(about.demo_notice(), kind="demo")
        for message in self._session.messages:
            if message.role == "user":
                self._conversation.add_user(message.text)
            elif message.role == "assistant":
                await self._conversation.add_answer(message.text)
        self._prompt.focus()
        self._show_timings()
        self._show_memory()
        # Apart from the answer's own updates: together they would have the whole screen drawn.
        self.set_interval(0.5, self._refresh_timings)
        self.set_interval(1, self._show_memory)

    @property
    def _conversation(self) -> Conversation:
        return self.query_one(Conversation)

    @property
    def _prompt(self) -> Prompt:
        return self.query_one(Prompt)

    # What the user does

    @on(Prompt.Sent)
    async def _send(self, event: Prompt.Sent) -> None:
        # Does not wait for the lock: this handler is the screen's own, which must stay awake.
        if self._stream or self._changing.locked():
            self._prompt.say(STILL_ANSWERING)
            return
        async with self._changing:
            messages = self._session.messages
            if messages and messages[-1].role == "user":
                # Stopped before it was answered: the session makes one message of the two.
                await self._conversation.drop_last_user()
            self._session.add_user(self._prompt.take())
            self._conversation.add_user(self._session.messages[-1].text)
            self._begin_answer()

    def action_stop(self) -> None:
        """Stop the answer and keep what was written."""
        if self._stream:
            self._stream.stop()

    @work(group="command")
    async def action_new_conversation(self) -> None:
        """Begin anew, after asking, as the conversation is lost."""
        if isinstance(self.app.screen, Confirm):  # the key was pressed twice
            return
        if any(message.role != "system" for message in self._session.messages):
            question = "Begin a new conversation? This one will be lost."
            if not await self.app.push_screen_wait(Confirm(question, yes="Begin anew", no="Keep")):
                return
        async with self._changing:
            await self._stop_answer()
            self._session.clear()
            self._timings = Timings()
            await self._conversation.clear()
            self._show_timings()

    @work(group="command")
    async def action_regenerate(self) -> None:
        """Answer the user's last message once more."""
        if self._changing.locked():  # a held key must not line up answers
            return
        async with self._changing:
            await self._stop_answer()
            self._session.drop_last_answer()
            messages = self._session.messages
            if not messages or messages[-1].role != "user":
                self._prompt.say(NOTHING_TO_REGENERATE)
                return
            await self._conversation.drop_answer()
            self._begin_answer()

    def action_scroll(self, pages: int) -> None:
        """Scroll the conversation by a page."""
        scroll = self._conversation.scroll_page_down
        if pages < 0:
            scroll = self._conversation.scroll_page_up
        scroll(animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc is dimmed in the footer while there is nothing to stop."""
        if action == "stop" and not self._stream:
            return None
        return True

    def commands(self) -> Iterable[SystemCommand]:
        """The keys' actions, for the command palette."""
        yield SystemCommand("Send", "Send the prompt (Enter)", self._prompt.action_send)
        yield SystemCommand(
            "New line",
            "Begin a new line in the prompt (Shift+Enter or Ctrl+J)",
            self._prompt.action_newline,
        )
        yield SystemCommand(
            "Stop", "Stop the answer and keep what was written (Esc)", self.action_stop
        )
        yield SystemCommand("New conversation", "Begin anew (Ctrl+N)", self.action_new_conversation)
        yield SystemCommand(
            "Regenerate", "Answer the last message once more (Ctrl+R)", self.action_regenerate
        )

    # What the model does

    def _begin_answer(self) -> None:
        self._timings = Timings()
        self._stream = AnswerStream(self._session, self._model_thread)
        self.refresh_bindings()
        self._answering = self._answer(self._stream)

    async def _stop_answer(self) -> None:
        if self._stream and self._answering:
            self._stream.stop()
            await self._answering.wait()

    @work(group="answer")
    async def _answer(self, stream: AnswerStream) -> None:
        answer = await self._conversation.add_answer()
        answer.say("is reading the prompt…")
        try:
            async for events in stream.batches():
                await self._show_events(events, answer)
        finally:  # also if the app is being closed
            stream.stop()
        await answer.finish()
        if isinstance(stream.error, UserError):
            await self._take_back(str(stream.error))
        elif stream.error:
            self.post_message(self.AnswerFailed(stream.error))
            self._conversation.add_notice(failed(stream.error), kind="problem")
        self._stream = None
        self.refresh_bindings()
        self._show_timings()

    async def _show_events(self, events: list[Event], answer: Answer) -> None:
        text = ""
        for event in events:
            self._timings.observe(event)
            if isinstance(event, Token | Finished):
                text += event.text
            if isinstance(event, TurnsDropped):
                self._conversation.add_notice(dropped(event.count), before=answer)
            elif isinstance(event, Finished):
                self._show_ending(event)
        if text:
            await answer.append(text)

    async def _take_back(self, problem: str) -> None:
        await self._conversation.drop_last_user()
        self._conversation.add_notice(problem, kind="problem")
        self._prompt.put_back(self._session.drop_last_user())

    def _show_ending(self, finished: Finished) -> None:
        if finished.message:
            self._conversation.add_notice(finished.message, kind="problem")
        elif finished.reason in ENDINGS:
            self._conversation.add_notice(ENDINGS[finished.reason])

    # What is measured

    def _refresh_timings(self) -> None:
        if self._stream:
            self._show_timings()

    def _show_timings(self) -> None:
        session = self._session
        panel = self.query_one(TimingPanel)
        panel.show(self._timings, session.context_used, session.context_size)
        self._show_summary()

    def _show_memory(self) -> None:
        self._report = memory_report()
        self.query_one(MemoryPanel).show(self._report, model_memory(self._session, self._report))
        self._show_summary()

    def _show_summary(self) -> None:
        session = self._session
        memory = memory_parts(self._report, session.context_used, session.context_size)
        self.query_one(Summary).show(answer_parts(self._timings) + memory)


def failed(error: Exception) -> str:
    """The notice that an answer raised what it should not have."""
    first_line = str(error).strip().partition("\n")[0].rstrip(". ")
    reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return f"The answer failed: {reason}; start with --debug to see where."


def dropped(count: int) -> str:
    """The notice that the context has become too small for the conversation."""
    if count == 1:
        return "The oldest message no longer fits in the context and was left out."
    return f"The {count} oldest messages no longer fit in the context and were left out."
