"""The messages of a conversation. All text in them is data, never markup."""

from textual.app import ComposeResult, RenderResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.reactive import Reactive
from textual.selection import Selection
from textual.widget import Widget
from textual.widgets import Static

from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.system.text import printable
from llama_cpu.tui.widgets.markdown import Piece, pieces
from llama_cpu.tui.widgets.rows import Row

GROWTH = 3  # lines by which a growing answer becomes higher
HOW_IT_ENDED = {
    State.CUT: "cut off",
    State.STOPPED: "stopped",
    State.WRITING: "being written in another window",
}


def heading(speaker: str, place: str, doing: str = "") -> Content:
    """Who speaks, which of the alternatives it is, and what is to be said of it."""
    parts = [(f"  {part}", "dim") for part in (place, doing) if part]
    return Content.assemble((speaker, "bold"), *parts)


class UserMessage(Static):
    """What the user wrote, as it was written. It has the focus only while it is chosen."""

    BINDINGS = [
        Binding("enter,e", "screen.edit_chosen", "Edit", key_display="Enter", id="edit"),
        Binding("up", "screen.step(-1)", "Before", id="up"),
        Binding("down", "screen.step(1)", "After", id="down"),
        Binding("escape", "screen.leave_chosen", "Back", key_display="Esc", id="back"),
    ]

    def __init__(self, message: StoredMessage, place: str = "") -> None:
        super().__init__()
        self.message = message
        self.place = place

    def on_mount(self) -> None:
        """Show it."""
        self._show()

    def put_at(self, place: str) -> None:
        """Which of the alternatives it is."""
        if place != self.place:
            self.place = place
            self._show()

    def choose(self) -> None:
        """Have the keys."""
        self.can_focus = True
        self.focus()

    def on_blur(self) -> None:
        """A click, or Tab, is not to end here."""
        self.can_focus = False

    def _show(self) -> None:
        text = printable(self.message.text)
        self.update(Content.assemble(heading("You", self.place), "\n", text))


class Notice(Static):
    """A sentence of the program's own; ``kind`` is "note", "demo" or "problem"."""

    def __init__(self, text: str, kind: str = "note") -> None:
        super().__init__(printable(text), markup=False, classes=kind)


class Passage(Widget):
    """Some pieces of an answer, one below the other."""

    # Textual lays the screen out a second time when this changes; nothing scrolls in a passage.
    virtual_size = Reactive(Size(0, 0))

    def __init__(self, pieces: list[Piece]) -> None:
        super().__init__()
        self._pieces = pieces
        self._laid_out = (-1, Content(), 0)  # width, text, height

    def show(self, pieces: list[Piece]) -> None:
        """Show these pieces instead of the earlier ones."""
        width = self.content_size.width
        before, height_before = self._layout(width)
        self._pieces, self._laid_out = pieces, (-1, Content(), 0)
        after, height = self._layout(width)
        if not width or not after.is_same(before):
            # A new layout of the screen costs several times as much as drawing this widget.
            self.refresh(layout=not width or height != height_before)

    def render(self) -> RenderResult:
        """The text for the present width."""
        return self._layout(self.content_size.width)[0]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Asked before the widget has its width."""
        return self._layout(width)[1]

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """What is copied: without the spaces that give code its background."""
        selected = super().get_selection(selection)
        if selected is None:
            return None
        text, ending = selected
        return "\n".join(line.rstrip() for line in text.split("\n")), ending

    def _layout(self, width: int) -> tuple[Content, int]:
        if self._laid_out[0] != width:
            text = Content("\n").join([piece.layout(width) for piece in self._pieces])
            self._laid_out = (width, text, len(text.wrap(width)) if width else 1)
        return self._laid_out[1:]


class FinishedAnswer(Passage):
    """An answer that was there before: one widget, as the screen's layout costs as much as there
    are widgets in the conversation.
    """

    def __init__(self, message: StoredMessage, place: str = "") -> None:
        self.message = message
        self.place = place
        self._own_pieces = pieces(printable(message.text))
        super().__init__(self._all_pieces())

    def put_at(self, place: str) -> None:
        """Which of the alternatives it is."""
        if place != self.place:
            self.place = place
            self.show(self._all_pieces())

    def _all_pieces(self) -> list[Piece]:
        speaker = printable(self.message.model) or "Assistant"
        first = heading(speaker, self.place, HOW_IT_ENDED.get(self.message.state, ""))
        return [Piece((Row(first),), line=0, has_gap=False), *self._own_pieces]


class Answer(Vertical):
    """The model's answer: Markdown that can grow.

    While it grows each piece is a widget, of which only the last ones change; once it is finished
    they are one widget.
    """

    virtual_size = Reactive(Size(0, 0))  # as in Passage

    def __init__(self, speaker: str, place: str = "") -> None:
        super().__init__()
        self.message: StoredMessage | None = None  # once it is finished
        self.place = place
        self._speaker = printable(speaker)
        self._settled: list[Piece] = []  # can no longer change
        self._growing: list[Piece] = []
        self._passages: list[Passage] = []  # of the growing pieces
        self._tail = ""  # their text
        self._tail_has_gap = False  # the answer begins below its speaker's name
        self._is_finished = False
        self._doing = ""

    def compose(self) -> ComposeResult:
        yield Static(heading(self._speaker, self.place), classes="speaker")

    def say(self, doing: str) -> None:
        """Show beside the model's name what it is doing; nothing if empty."""
        self._doing = doing
        content = heading(self._speaker, self.place, doing)
        self.query_one(".speaker", Static).update(content, layout=False)

    def put_at(self, place: str) -> None:
        """Which of the alternatives it is."""
        if place != self.place:
            self.place = place
            self.say("")

    async def append(self, text: str) -> None:
        """Write on."""
        if self._doing:
            self.say("")
        self._tail += printable(text)
        self._growing = pieces(self._tail, self._tail_has_gap)
        with self.app.batch_update():  # one layout for what changed and what is new
            await self._show_growing()
        self._settle()

    async def finish(self) -> None:
        """Nothing more will come."""
        self.say("")
        self._is_finished = True
        with self.app.batch_update():
            await self.query(Passage).remove()
            if whole := self._settled + self._growing:
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
        """From now on parse from the last piece of which the first line is complete.

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
        """A growing answer leaves a few lines empty for what comes next.

        Each growth scrolls, and draws, the whole conversation.
        """
        height = super().get_content_height(container, viewport, width)
        return height if self._is_finished else -(-height // GROWTH) * GROWTH
