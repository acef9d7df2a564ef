"""The messages of a conversation. All text in them is data, never markup."""

from collections.abc import Callable

from textual import events
from textual.app import ComposeResult, RenderResult
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.reactive import Reactive
from textual.selection import Selection
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Static

from llama_cpu.chat.thinking import ThinkingSplitter, split_thinking
from llama_cpu.history.attachments import collapsed
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.markdown import Piece, pieces
from llama_cpu.tui.markdown_rows import Row
from llama_cpu.tui.occurrences import Marker, Search, row_of_present

GROWTH = 3  # lines by which a growing answer becomes higher at a time
CLICKABLE = "thinking"  # key in a style's metadata: a click there folds or unfolds the thinking
HOW_IT_ENDED = {
    State.CUT: "cut off",
    State.STOPPED: "unfinished",
    State.WRITING: "being written in another window",
}


def heading(speaker: str, place: str, doing: str = "") -> Content:
    """Format the speaker, the place among the alternatives, and what the speaker is doing."""
    shown_place = f"  {place}" if place else ""
    shown_doing = f" {doing}" if doing else ""  # a sentence about the speaker
    return Content.assemble((speaker, "bold"), (f"{shown_place}{shown_doing}", "dim"))


class Choosable(Widget):
    """A message that keys can choose. It has the focus only while it is chosen."""

    BINDINGS = bindings(Scope.MESSAGE)

    def choose(self) -> None:
        """Take the focus."""
        self.can_focus = True
        self.focus()

    def on_blur(self) -> None:
        """Stop accepting the focus, so that clicks and Tab skip this message."""
        self.can_focus = False


# Textual takes styles from the first base class.
class UserMessage(Static, Choosable):
    """A message of the user, as it was typed, with one line for each attached file."""

    BINDINGS = bindings(Scope.MESSAGE)  # again, as Static inherits none

    def __init__(self, message: StoredMessage, place: str = "") -> None:
        super().__init__()
        self.message = message
        self.place = place
        self._search: Search | None = None
        self._content = Content()

    def on_mount(self) -> None:
        """Show the text."""
        self._show()

    def put_at(self, place: str) -> None:
        """Show the place among the alternatives."""
        if place != self.place:
            self.place = place
            self._show()

    def find(self, search: Search | None) -> None:
        """Mark what is searched; None: nothing."""
        self._search = search
        if self.is_attached:
            self._show()

    def found_at(self) -> tuple[Widget, int] | None:
        """The widget and its row with the present occurrence."""
        row = row_of_present(self._content, self.content_size.width)
        return None if row is None else (self, row)

    def _show(self) -> None:
        text = Content(printable(collapsed(self.message.text)))
        if self._search:
            text = Marker(self._search)(text)
        self._content = Content.assemble(heading("You", self.place), "\n", text)
        self.update(self._content)


class Notice(Static):
    """A sentence from the program; ``kind`` is "note", "demo" or "problem"."""

    def __init__(self, text: str, kind: str = "note") -> None:
        super().__init__(printable(text), markup=False, classes=kind)


class Passage(Widget):
    """Shows some pieces of an answer, one below the other."""

    # Textual lays out the screen a second time when this attribute changes. Nothing scrolls in a
    # passage, so plain ``Reactive`` is used, which leaves the second layout out.
    virtual_size = Reactive(Size(0, 0))

    def __init__(self, pieces: list[Piece]) -> None:
        super().__init__()
        self._pieces = pieces
        self._laid_out = (-1, Content(), 0)  # width, text, height
        self._search: Search | None = None

    def show(self, pieces: list[Piece]) -> None:
        """Show these pieces instead of the present ones."""
        width = self.content_size.width
        before, height_before = self._layout(width)
        self._pieces, self._laid_out = pieces, (-1, Content(), 0)
        after, height = self._layout(width)
        if not width or not after.is_same(before):
            # A layout of the screen costs several times as much as drawing this widget.
            self.refresh(layout=not width or height != height_before)

    def find(self, search: Search | None) -> None:
        """Mark what is searched; None: nothing. The height does not depend on it."""
        self._search, self._laid_out = search, (-1, Content(), 0)
        if self.is_attached:
            self.refresh()

    def found_at(self) -> tuple[Widget, int] | None:
        """The widget and its row with the present occurrence."""
        width = self.content_size.width
        row = row_of_present(self._layout(width)[0], width)
        return None if row is None else (self, row)

    def render(self) -> RenderResult:
        """Render the text for the present width."""
        return self._layout(self.content_size.width)[0]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the number of lines at a width."""
        return self._layout(width)[1]

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """Return the selected text without the spaces that give code its background."""
        selected = super().get_selection(selection)
        if selected is None:
            return None
        text, ending = selected
        return "\n".join(line.rstrip() for line in text.split("\n")), ending

    def _layout(self, width: int) -> tuple[Content, int]:
        if self._laid_out[0] != width:
            pieces = self._pieces
            if self._search:
                marker = Marker(self._search)
                pieces = [piece.changed(marker) for piece in pieces]
            text = Content("\n").join([piece.layout(width) for piece in pieces])
            self._laid_out = (width, text, len(text.wrap(width)) if width else 1)
        return self._laid_out[1:]


def thinking_pieces(thinking: str, is_shown: bool, is_under_way: bool = False) -> list[Piece]:
    """Make the line that stands for the model's thinking and, if ``is_shown``, its text."""
    if not thinking and not is_under_way:
        return []
    words = len(thinking.split())
    count = "1 word" if words == 1 else f"{words:,} words"
    label = f"Thought for {count}"
    if is_under_way:
        label = f"Thinking… {count}" if words else "Thinking…"
    style = Style.parse("dim") + Style.from_meta({CLICKABLE: True})
    line = Content.styled(f"{'▾' if is_shown else '▸'} {label}", style)
    label_piece = Piece((Row(line),), line=0, has_gap=False, is_searched=False)
    if not is_shown:
        return [label_piece]
    row = Row(Content.styled(thinking, "dim")).behind("│ ", "│ ")
    return [label_piece, Piece((row,), line=0, has_gap=False)]


class FinishedAnswer(Passage, Choosable):
    """A complete answer, as one widget.

    The cost of a layout grows with the number of widgets on the screen.
    """

    def __init__(
        self, message: StoredMessage, place: str = "", shows_thinking: bool = False
    ) -> None:
        self.place = place
        self._shows_thinking = shows_thinking
        self._read(message)
        super().__init__(self._all_pieces())

    def renew(self, message: StoredMessage) -> None:
        """Show another state of the same answer."""
        self._read(message)
        self.show(self._all_pieces())

    def _read(self, message: StoredMessage) -> None:
        self.message = message
        self._thinking, answer, _ = split_thinking(printable(message.text))
        self._answer_pieces = pieces(answer, has_gap=bool(self._thinking))

    def find(self, search: Search | None) -> None:
        """Mark what is searched, and unfold the thinking if the present occurrence is there."""
        if search and self._thinking:
            after = search.beyond(self._thinking)
            if search.present >= 0 > after.present:
                self.show_thinking(True)
            elif not self._shows_thinking:
                search = after
        super().find(search)

    def put_at(self, place: str) -> None:
        """Show the place among the alternatives."""
        if place != self.place:
            self.place = place
            self.show(self._all_pieces())

    def show_thinking(self, shown: bool) -> None:
        """Fold or unfold the model's thinking."""
        self._shows_thinking = shown
        if self._thinking:
            self.show(self._all_pieces())

    def on_click(self, event: events.Click) -> None:
        """Fold or unfold the thinking on a click on its line."""
        if CLICKABLE in event.style.meta:
            self.show_thinking(not self._shows_thinking)

    def _all_pieces(self) -> list[Piece]:
        speaker = printable(self.message.model) or "Assistant"
        marks = filter(None, (self.place, HOW_IT_ENDED.get(self.message.state)))
        first = heading(speaker, "  ".join(marks))
        return [
            Piece((Row(first),), line=0, has_gap=False, is_searched=False),
            *thinking_pieces(self._thinking, self._shows_thinking),
            *self._answer_pieces,
        ]


class Answer(Vertical, Choosable):
    """An answer in Markdown that can grow.

    While it grows, each piece is a widget, and only the last ones change. Once it is finished, one
    widget shows all pieces. The model's thinking is a separate widget above them.
    """

    virtual_size = Reactive(Size(0, 0))  # as in Passage

    def __init__(
        self,
        speaker: str,
        place: str = "",
        shows_thinking: bool = False,
        begins_in_thinking: Callable[[], bool] = lambda: False,
    ) -> None:
        """``begins_in_thinking`` is called with the first text; see Session."""
        super().__init__()
        self.message: StoredMessage | None = None  # once it is finished
        self.place = place
        self._speaker = printable(speaker)
        self._shows_thinking = shows_thinking
        self._begins_in_thinking = begins_in_thinking
        self._splitter: ThinkingSplitter | None = None  # from the first text on
        self._thinking: Passage | None = None
        self._settled: list[Piece] = []  # can no longer change
        self._growing: list[Piece] = []
        self._passages: list[Passage] = []  # of the growing pieces
        self._tail = ""  # their text
        self._tail_has_gap = False  # the answer begins right below its heading
        self._is_finished = False
        self._doing = ""

    def compose(self) -> ComposeResult:
        yield Static(heading(self._speaker, self.place), classes="speaker")

    def say(self, doing: str) -> None:
        """Show in the heading what the model is doing; empty for nothing."""
        self._doing = doing
        content = heading(self._speaker, self.place, doing)
        self.query_one(".speaker", Static).update(content, layout=False)

    def put_at(self, place: str) -> None:
        """Show the place among the alternatives."""
        if place != self.place:
            self.place = place
            self.say("")

    def keep(self, message: StoredMessage) -> None:
        """Link the answer to its stored message."""
        self.message = message

    def add_notice_above(self, text: str) -> None:
        """Show a sentence from the program above the answer."""
        assert isinstance(self.parent, Widget)
        self.parent.mount(Notice(text), before=self)

    def find(self, search: Search | None) -> None:
        """Mark what is searched, and unfold the thinking if the present occurrence is there."""
        if not self._is_finished:
            return
        thinking = self._splitter.thinking if self._splitter else ""
        after = search.beyond(thinking) if search else None
        if search and after and search.present >= 0 > after.present:
            self.show_thinking(True)
        for passage in self.query(Passage):
            passage.find(search if passage is self._thinking else after)

    def found_at(self) -> tuple[Widget, int] | None:
        """The widget and its row with the present occurrence."""
        found = (passage.found_at() for passage in self.query(Passage))
        return next((each for each in found if each), None)

    # Growing

    async def append(self, text: str) -> None:
        """Add text at the end."""
        if self._doing:
            self.say("")
        if self._splitter is None:
            self._splitter = ThinkingSplitter(self._begins_in_thinking())
        answer = self._splitter.feed(printable(text))
        with self.app.batch_update():  # one layout for changed and new pieces
            if not self._settled and not self._growing:  # else the thinking is complete
                await self._update_thinking()
            if answer:
                self._tail += answer
                self._growing = pieces(self._tail, self._tail_has_gap)
                await self._show_growing()
        self._settle()

    async def finish(self) -> None:
        """Show the answer in its final form."""
        self.say("")
        self._is_finished = True
        whole = self._settled + self._growing
        if self._splitter and self._splitter.finish():
            whole = pieces(self._splitter.answer, has_gap=bool(self._splitter.thinking))
        with self.app.batch_update():
            await self.query(Passage).remove()
            self._thinking = None
            await self._update_thinking()
            if whole:
                await self.mount(Passage(whole))

    async def _show_growing(self) -> None:
        for piece, passage in zip(self._growing, self._passages, strict=False):
            passage.show([piece])
        for passage in self._passages[len(self._growing) :]:
            await passage.remove()
        new = [Passage([piece]) for piece in self._growing[len(self._passages) :]]
        self._passages = self._passages[: len(self._growing)] + new
        await self.mount_all(new)

    def _settle(self) -> None:
        """Continue parsing at the last piece whose first line is complete.

        The ``1`` that a text ends with is a paragraph; with the next characters it may turn out
        to be the list item ``10.``
        """
        complete = [piece for piece in self._growing if piece.line < self._tail.count("\n")]
        if not complete:
            return
        start = complete[-1].line
        first = next(n for n, piece in enumerate(self._growing) if piece.line == start)
        self._settled += self._growing[:first]
        self._growing, self._passages = self._growing[first:], self._passages[first:]
        self._tail_has_gap = self._growing[0].has_gap
        self._tail = self._tail.split("\n", start)[-1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Leave a few lines at the end of a growing answer empty for the next text.

        Each change of height scrolls, and therefore redraws, the whole conversation.
        """
        height = super().get_content_height(container, viewport, width)
        return height if self._is_finished else -(-height // GROWTH) * GROWTH

    # Thinking

    def show_thinking(self, shown: bool) -> None:
        """Fold or unfold the model's thinking."""
        self._shows_thinking = shown
        if self._thinking:
            self._thinking.show(self._thinking_pieces())

    def on_click(self, event: events.Click) -> None:
        """Fold or unfold the thinking on a click on its line."""
        if CLICKABLE in event.style.meta:
            self.show_thinking(not self._shows_thinking)

    def _thinking_pieces(self) -> list[Piece]:
        if not self._splitter:
            return []
        is_under_way = self._splitter.is_open and not self._is_finished
        return thinking_pieces(self._splitter.thinking, self._shows_thinking, is_under_way)

    async def _update_thinking(self) -> None:
        """Show the thinking so far; an empty block shows nothing."""
        shown = self._thinking_pieces()
        self._tail_has_gap = bool(shown)
        if self._thinking and shown:
            self._thinking.show(shown)
        elif self._thinking:
            await self._thinking.remove()
            self._thinking = None
        elif shown:
            self._thinking = Passage(shown)
            await self.mount(self._thinking, after=self.query_one(".speaker"))
