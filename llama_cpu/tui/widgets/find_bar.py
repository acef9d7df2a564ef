"""Searches the present conversation."""

import asyncio
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
from llama_cpu.tui.occurrences import Search, count
from llama_cpu.tui.widgets.fields import LineField

FOUND = "found"  # CSS class of the message with the present occurrence

Place = tuple[int, int]  # id of a message, and the number of an occurrence in it, from 0


class SearchedView(Protocol):
    """The view whose messages are searched."""

    @property
    def line(self) -> Sequence[StoredMessage]:
        """The messages of the conversation."""
        ...

    def find(self, search: Search, message: int | None = None) -> None:
        """Mark what is searched in all messages, and its present occurrence in one."""
        ...

    def reveal(self, message: int) -> Awaitable[Widget | None]:
        """Scroll to the present occurrence, and return the widget of its message."""
        ...


class FindBar(Horizontal):
    """A text field, and the number of occurrences of its text. The newest is shown first."""

    BINDINGS = bindings(Scope.FIND_BAR)

    class Closed(Message):
        """The user closed the search."""

    def __init__(self, view: SearchedView) -> None:
        super().__init__()
        self._view = view
        self._found: list[Place] = []
        self._at: Place | None = None
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
        self._go_to(None)
        self._view.find(Search(""))
        self.display = False
        self.post_message(self.Closed())

    def action_step(self, by: int) -> None:
        """Go to the previous (-1) or next (1) occurrence; the search wraps around."""
        if self._found:
            place = self._found.index(self._at) + by if self._at in self._found else -1
            self._go_to(self._found[place % len(self._found)])
        self._count()
        self._look()  # messages may have been added

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._look()

    @work(exclusive=True, group="look")
    async def _look(self) -> None:
        """Search again. A long conversation takes a moment, so this is done in a thread."""
        words, line = self.query_one(Input).value, list(self._view.line)
        self._found = await asyncio.to_thread(_occurrences, words, line)
        if not self.display:  # closed meanwhile
            return
        if self._at in self._found:
            self._mark()
        else:
            self._go_to(self._found[-1] if self._found else None)
        self._count()

    def _mark(self) -> None:
        message, present = self._at or (None, -1)
        self._view.find(Search(self.query_one(Input).value, present), message)

    def _go_to(self, place: Place | None) -> None:
        self._at = place
        self._mark()
        if self._marked:
            self._marked.remove_class(FOUND)
            self._marked = None
        if place is not None:
            self._show(place)

    @work(exclusive=True, group="show")
    async def _show(self, place: Place) -> None:
        widget = await self._view.reveal(place[0])
        if widget and place == self._at:
            self._marked = widget.add_class(FOUND)

    def _count(self) -> None:
        shown, found = "", self._found
        if found:
            place = found.index(self._at) + 1 if self._at in found else 0
            shown = f"{place} of {len(found)}"
        elif self.query_one(Input).value:
            shown = "not found"
        self.query_one("#matches", Static).update(shown)


def _occurrences(words: str, line: Sequence[StoredMessage]) -> list[Place]:
    return [
        (message.id, number)
        for message in line
        for number in range(count(message.role, message.text, words))
    ]
