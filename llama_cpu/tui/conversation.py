"""The scrolling column of messages."""

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Size
from textual.reactive import Reactive
from textual.widget import Widget

from llama_cpu.tui.messages import Answer, Notice, UserMessage


class Messages(Vertical):
    """Holds the messages; never lower than the conversation, so that they begin at its top."""

    virtual_size = Reactive(Size(0, 0))  # as in messages.Passage


class Conversation(VerticalScroll, can_focus=False):
    """Shows messages in order; stays at the end until the user scrolls up."""

    virtual_size = Reactive(Size(0, 0))  # as in messages.Passage

    def __init__(self, speaker: str) -> None:
        super().__init__()
        self._speaker = speaker

    def compose(self) -> ComposeResult:
        yield Messages(id="messages")

    def on_mount(self) -> None:
        """Follow the end from the start."""
        self.anchor()

    @property
    def messages(self) -> Messages:
        """What holds the messages."""
        return self.query_one(Messages)

    def add_user(self, text: str) -> None:
        """Show what the user sent and follow the answer from here."""
        self.messages.mount(UserMessage(text))
        self.anchor()

    def add_notice(self, text: str, kind: str = "note", before: Answer | None = None) -> None:
        """Show a sentence of the program's own."""
        self.messages.mount(Notice(text, kind), before=before)

    async def add_answer(self, text: str = "") -> Answer:
        """Show an answer; an empty one can be written on."""
        answer = Answer(self._speaker)
        await self.messages.mount(answer)
        if text:
            await answer.append(text)
            await answer.finish()
        return answer

    async def drop_answer(self) -> None:
        """Remove whatever came after the user's last message."""
        for widget in self._from_last_user()[1:]:
            await widget.remove()

    async def drop_last_user(self) -> None:
        """Remove the user's last message and whatever came after it."""
        for widget in self._from_last_user():
            await widget.remove()

    async def clear(self) -> None:
        """Begin anew; what is said about a demo model stays."""
        for widget in list(self.messages.children):
            if not widget.has_class("demo"):
                await widget.remove()

    def _from_last_user(self) -> list[Widget]:
        messages = list(self.messages.children)
        for position in range(len(messages) - 1, -1, -1):
            if isinstance(messages[position], UserMessage):
                return messages[position:]
        return []
