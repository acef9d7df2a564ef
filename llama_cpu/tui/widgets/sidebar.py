"""The list of conversations by day, and the search in all of them."""

import asyncio
import datetime

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llama_cpu.chat.conversation import Conversation
from llama_cpu.errors import UserError
from llama_cpu.history.rows import StoredConversation, by_day
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.widgets.fields import LineField

PINNED = "Pinned"
ROOM_FOR_SIDEBAR = 120  # columns; with fewer, it covers the conversation, and only on request
MOST_LISTED = 500  # the search finds older conversations
NOTHING_YET = "Conversations will be listed here."
NOTHING_FOUND = "No conversation contains these words."


class Sidebar(Vertical):
    """Lists conversations, and posts ``Requested`` for the action that the user chooses."""

    BINDINGS = bindings(Scope.SIDEBAR)

    class Requested(Message):
        """The user chose an action. ``verb``: open, rename, delete, duplicate or pin."""

        def __init__(self, verb: str, conversation: StoredConversation) -> None:
            super().__init__()
            self.verb = verb
            self.conversation = conversation

    class Left(Message):
        """The user goes back to the input."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(id="sidebar")
        self._conversation = conversation
        self._listed: dict[str, StoredConversation] = {}
        self._rows: list[tuple[str | None, str]] = []  # what the list shows
        self._has_toggled = False  # the user has shown or hidden the list
        self.can_focus_children = False  # Tab does not lead here, but Ctrl+B and clicks do
        self.display = False

    def compose(self) -> ComposeResult:
        yield LineField(placeholder="Search all conversations", id="search")
        yield OptionList(markup=False, id="conversations")

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    def on_descendant_focus(self) -> None:
        """Once the user is here, Tab leads from the search to the list."""
        self.can_focus_children = True

    def on_descendant_blur(self) -> None:
        """Keep Tab out again."""
        self.can_focus_children = False

    # Showing and hiding

    def toggle(self) -> bool:
        """Show the list and move the focus there, or hide it if the focus is there already.

        Returns whether it is shown now.
        """
        self._has_toggled = True
        self.display = not (self.display and self.has_focus_within)
        if self.display:
            self.show()
            self._list.focus()
        return self.display

    def step_aside(self) -> None:
        """Hide the list if it covers the conversation."""
        if self.screen.size.width < ROOM_FOR_SIDEBAR:
            self.display = self._has_toggled = False

    def fit(self, width: int) -> None:
        """Show or hide the list as the width of the screen allows."""
        if width < ROOM_FOR_SIDEBAR and not self.has_focus_within:
            self.display = self._has_toggled = False
        self._place(width)

    def refresh_list(self) -> None:
        """Update the list after a change of a conversation."""
        if self.display:
            self.show()
        else:
            self._place(self.screen.size.width)

    def _place(self, width: int) -> None:
        if not self._has_toggled and width >= ROOM_FOR_SIDEBAR:
            self._show_if_useful()

    @work(exclusive=True, group="listing")
    async def _show_if_useful(self) -> None:
        """Show the list if it has a conversation other than the present one."""
        try:
            newest = await asyncio.to_thread(self._conversation.history.conversations, 2)
        except UserError:
            return
        if any(each.id != self._conversation.stored_id for each in newest):
            self.display = True
            self.show()

    # The list

    def show(self) -> None:
        """List the conversations."""
        self._show(None if not self.has_focus_within else self._highlighted_id())

    @work(exclusive=True, group="listing")
    async def _show(self, highlighted: str | None) -> None:
        words, listing = self.query_one(Input).value, self._list
        try:
            options = await asyncio.to_thread(self._options, words)
        except UserError as error:
            options = [Option(printable(str(error)), disabled=True)]
        if not listing.is_attached:  # the app has quit meanwhile
            return
        highlighted = highlighted or str(self._conversation.stored_id)
        self._set_options(options, highlighted)
        ids = [option.id for option in options]
        selectable = [index for index, id in enumerate(ids) if id]
        if highlighted in ids:
            listing.highlighted = ids.index(highlighted)
        elif selectable:
            listing.highlighted = selectable[0]

    def _set_options(self, options: list[Option], highlighted: str) -> None:
        """List something else, scrolled as before if the highlighted conversation is the same."""
        listing, before = self._list, self._highlighted_id()
        rows = [(option.id, str(option.prompt)) for option in options]
        if rows == self._rows:
            return
        self._rows, y = rows, listing.scroll_y
        listing.set_options(options)
        if before == highlighted:
            self.call_after_refresh(listing.scroll_to, y=y, animate=False, immediate=True)

    def _options(self, words: str) -> list[Option]:
        history = self._conversation.history
        if words.strip():
            found = history.search(words)
            self._listed = {str(each.id): each for each, _ in found}
            snippets = {each.id: place.snippet for each, place in found}
        else:
            newest = history.conversations(MOST_LISTED)
            self._listed, snippets = {str(each.id): each for each in newest}, {}
        if not self._listed:
            return [Option(NOTHING_FOUND if words.strip() else NOTHING_YET, disabled=True)]
        pinned = [each for each in self._listed.values() if each.pinned]
        others = [each for each in self._listed.values() if not each.pinned]
        groups = [(PINNED, pinned)] if pinned else []
        groups += [(day(date), each) for date, each in by_day(others)]
        options = []
        for heading, conversations in groups:
            options.append(Option(Content.styled(heading, "bold $text-primary"), disabled=True))
            for each in conversations:
                options.append(Option(self._row(each, snippets.get(each.id, "")), str(each.id)))
        return options

    def _row(self, conversation: StoredConversation, snippet: str) -> Content:
        mark = "▸ " if conversation.id == self._conversation.stored_id else "  "
        title = printable(" ".join(conversation.title.split())) or "(no title)"
        rows = [Content(mark + title + (" (damaged)" if conversation.damage else ""))]
        if snippet:
            rows.append(Content.styled(f"  {printable(snippet)}", "dim"))
        return Content("\n").join(rows)

    def _highlighted_id(self) -> str | None:
        option = self._list.highlighted_option
        return option.id if option else None

    @on(Input.Changed)
    def _search(self) -> None:
        self.show()

    @on(Input.Submitted)
    def _go_to_list(self) -> None:
        self._list.focus()
        self._list.action_first()

    @on(OptionList.OptionSelected)
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_request("open")

    def action_request(self, verb: str) -> None:
        """Request something for the highlighted conversation."""
        if conversation := self._listed.get(self._highlighted_id() or ""):
            self.post_message(self.Requested(verb, conversation))

    def action_search(self) -> None:
        """Move the focus to the search box."""
        self.query_one(Input).focus()

    def action_leave(self) -> None:
        """Clear the search and go back to the input."""
        self.query_one(Input).value = ""
        self.post_message(self.Left())


def day(date: datetime.date) -> str:
    """Format a date: ``Today``, ``Yesterday``, ``5 March 2026``."""
    days_ago = (datetime.date.today() - date).days
    names = {0: "Today", 1: "Yesterday"}
    return names.get(days_ago) or f"{date.day} {date:%B %Y}"
