"""The list of conversations, by day, and the search in it."""

import asyncio
import datetime

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llama_cpu.chat.conversation import Conversation
from llama_cpu.errors import UserError
from llama_cpu.history.rows import StoredConversation, by_day
from llama_cpu.system.text import printable

MOST_LISTED = 500  # the search finds those before
NOTHING_YET = "Conversations will be listed here."
NOTHING_FOUND = "Nothing has these words."


class Sidebar(Vertical):
    """Shows what there is; what is to be done with it goes to the screen as ``Wanted``."""

    BINDINGS = [
        Binding("r,f2", "want('rename')", "Rename", key_display="r", id="rename"),
        Binding("d,delete", "want('delete')", "Delete", key_display="d", id="delete"),
        Binding("c", "want('duplicate')", "Duplicate", id="duplicate"),
        Binding("slash", "search", "Search", key_display="/", id="search"),
        Binding("escape", "leave", "Back", key_display="Esc", id="leave_list"),
    ]

    class Wanted(Message):
        """``verb``: open, rename, delete or duplicate."""

        def __init__(self, verb: str, conversation: StoredConversation) -> None:
            super().__init__()
            self.verb = verb
            self.conversation = conversation

    class Left(Message):
        """The user wants back to the prompt."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(id="sidebar")
        self._conversation = conversation
        self._listed: dict[str, StoredConversation] = {}
        self.display = False

    def compose(self) -> ComposeResult:
        yield Input(placeholder="Search all conversations", id="search")
        yield OptionList(markup=False, id="conversations")

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    def enter(self) -> None:
        """Have the keys."""
        self._list.focus()

    @work(exclusive=True, group="listing")
    async def show_if_useful(self) -> None:
        """Be there once there is another conversation than the one that is shown."""
        try:
            newest = await asyncio.to_thread(self._conversation.history.conversations, 2)
        except UserError:
            return
        if any(each.id != self._conversation.stored_id for each in newest):
            self.display = True
            self.show()

    def show(self) -> None:
        """List the conversations as they are now."""
        self._show(None if not self.has_focus_within else self._highlighted_id())

    @work(exclusive=True, group="listing")
    async def _show(self, highlighted: str | None) -> None:
        words, listing = self.query_one(Input).value, self._list
        try:
            options = await asyncio.to_thread(self._options, words)
        except UserError as error:
            options = [Option(printable(str(error)), disabled=True)]
        if not listing.is_attached:  # the app was left meanwhile
            return
        highlighted = highlighted or str(self._conversation.stored_id)
        listing.set_options(options)
        ids = [option.id for option in options]
        selectable = [index for index, id in enumerate(ids) if id]
        if highlighted in ids:
            listing.highlighted = ids.index(highlighted)
        elif selectable:
            listing.highlighted = selectable[0]

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
        options = []
        for date, conversations in by_day(self._listed.values()):
            options.append(Option(Content.styled(day(date), "bold $text-primary"), disabled=True))
            for each in conversations:
                options.append(Option(self._row(each, snippets.get(each.id, "")), str(each.id)))
        return options

    def _row(self, conversation: StoredConversation, snippet: str) -> Content:
        mark = "▸ " if conversation.id == self._conversation.stored_id else "  "
        title = printable(" ".join(conversation.title.split())) or "(no title)"
        rows = [Content(mark + title)]
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
        self.action_want("open")

    def action_want(self, verb: str) -> None:
        """Ask the screen for something to be done with the highlighted conversation."""
        if conversation := self._listed.get(self._highlighted_id() or ""):
            self.post_message(self.Wanted(verb, conversation))

    def action_search(self) -> None:
        """Go to the search box."""
        self.query_one(Input).focus()

    def action_leave(self) -> None:
        """Back to the prompt; what was searched for is forgotten."""
        self.query_one(Input).value = ""
        self.post_message(self.Left())


def day(date: datetime.date) -> str:
    """``Today``, ``Yesterday``, ``5 March 2026``."""
    days_ago = (datetime.date.today() - date).days
    names = {0: "Today", 1: "Yesterday"}
    return names.get(days_ago) or f"{date.day} {date:%B %Y}"
