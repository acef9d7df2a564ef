"""Search within the conversation that is shown."""

from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from llama_cpu.tui.keys import key

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

FOUND = "found"  # class of the message that is shown


class FindBar(Horizontal):
    """A line to write in, and how many messages have it; the newest one is shown first."""

    BINDINGS = [
        key("enter,up", "step(-1)", "Before", about="the match before", id="find_before"),
        key("shift+enter,down", "step(1)", "After", about="the match after", id="find_after"),
        key(
            "escape", "close", "Close", key_display="Esc", about="close the search", id="close_find"
        ),
    ]

    class Closed(Message):
        """The user is done."""

    def __init__(self, screen: "ChatScreen") -> None:
        super().__init__()
        self._screen = screen
        self._shown: int | None = None  # id of the message
        self._marked: Widget | None = None
        self.display = False

    def compose(self) -> ComposeResult:
        yield Static("Find ")
        yield Input(compact=True)
        yield Static("", id="matches")

    def open(self) -> None:
        """Write what to look for; what was looked for last is there to be replaced."""
        self.display = True
        field = self.query_one(Input)
        field.cursor_blink = False
        field.focus()
        field.action_select_all()
        self._look()

    def action_close(self) -> None:
        """Back to writing; the conversation stays where it is."""
        self._mark(None)
        self.display = False
        self.post_message(self.Closed())

    def action_step(self, by: int) -> None:
        """The next match in that direction; after the last one comes the first."""
        found = self._matches()
        if found:
            at = found.index(self._shown) + by if self._shown in found else -1
            self._mark(found[at % len(found)])
        self._count(found)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._look()

    def _look(self) -> None:
        found = self._matches()
        if self._shown not in found:
            self._mark(found[-1] if found else None)
        self._count(found)

    def _matches(self) -> list[int]:
        words = self.query_one(Input).value.casefold()
        line = self._screen.conversation.line if words else []
        return [each.id for each in line if each.role != "system" and words in each.text.casefold()]

    def _mark(self, message: int | None) -> None:
        self._shown = message
        if self._marked:
            self._marked.remove_class(FOUND)
            self._marked = None
        if message is not None:
            self._show(message)

    @work(exclusive=True)
    async def _show(self, message: int) -> None:
        widget = await self._screen.conversation_view.reveal(message)
        if widget and message == self._shown:
            self._marked = widget.add_class(FOUND)

    def _count(self, found: list[int]) -> None:
        shown = ""
        if found:
            place = found.index(self._shown) + 1 if self._shown in found else 0
            shown = f"{place} of {len(found)}"
        elif self.query_one(Input).value:
            shown = "not found"
        self.query_one("#matches", Static).update(shown)
