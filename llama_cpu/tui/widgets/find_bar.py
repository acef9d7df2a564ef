"""Searches the present conversation."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from llama_cpu.history.rows import StoredMessage
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.widgets.fields import LineField

FOUND = "found"  # CSS class of the message with the present match


class SearchedView(Protocol):
    """The view whose messages are searched."""

    @property
    def line(self) -> Sequence[StoredMessage]:
        """The messages of the conversation."""
        ...

    def reveal(self, message: int) -> Awaitable[Widget | None]:
        """Scroll to a message and return its widget."""
        ...


class FindBar(Horizontal):
    """A text field, and the number of messages that contain its text. The newest is shown first."""

    BINDINGS = bindings(Scope.FIND_BAR)

    class Closed(Message):
        """The user closed the search."""

    def __init__(self, view: SearchedView) -> None:
        super().__init__()
        self._view = view
        self._shown: int | None = None  # id of the message
        self._marked: Widget | None = None
        self.display = False

    def compose(self) -> ComposeResult:
        yield Static("Find ")
        yield LineField(compact=True)
        yield Static("", id="matches")

    def open(self) -> None:
        """Focus the text field, with the last search selected."""
        self.display = True
        field = self.query_one(Input)
        field.cursor_blink = False
        field.focus()
        field.action_select_all()
        self._look()

    def action_close(self) -> None:
        """Close the search without scrolling the conversation."""
        self._mark(None)
        self.display = False
        self.post_message(self.Closed())

    def action_step(self, by: int) -> None:
        """Go to the previous (-1) or next (1) match; the search wraps around."""
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
        line = self._view.line if words else []
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
        widget = await self._view.reveal(message)
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
