"""The tokens of an answer in shades, with a cursor that keys and the mouse move."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.widgets.lens_layout import Line, Span, laid_out
from llama_cpu.tui.widgets.lens_shades import by_probability, shade_styles

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.lens import LensToken

Shading = Callable[["Sequence[LensToken]"], list[int]]


class LensText(ScrollView, can_focus=True):
    """Shows tokens as they arrive; ``pointed`` is the one under the mouse or at the cursor."""

    BINDINGS = bindings(Scope.LENS_TEXT)

    class Pointed(Message):
        """The mouse or the cursor has moved to another token."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens: list[LensToken] = []
        self._lines: list[Line] = []
        self._shading: Shading = by_probability
        self._shades: list[int] = []
        self._styles: list[RichStyle] = []
        self._plain = RichStyle()
        self._cursor = 0
        self._under_mouse: int | None = None

    @property
    def tokens(self) -> "list[LensToken]":
        return self._tokens

    @property
    def pointed(self) -> int | None:
        """The index of the token under the mouse, or else at the cursor."""
        if not self._tokens:
            return None
        return self._cursor if self._under_mouse is None else self._under_mouse

    def stay(self) -> None:
        """Move the cursor to the token under the mouse."""
        if self._under_mouse is not None:
            self._put_cursor(self._under_mouse)

    def clear(self) -> None:
        """Remove all tokens."""
        self._tokens, self._cursor, self._under_mouse = [], 0, None
        self._lay_out()
        self.scroll_to(y=0, animate=False)

    def extend(self, tokens: "Sequence[LensToken]") -> None:
        """Add tokens at the end."""
        self._tokens = [*self._tokens, *tokens]
        self._lay_out()
        self.post_message(self.Pointed())

    def shade(self, shading: Shading) -> None:
        """Shade the tokens by another figure."""
        self._shading = shading
        self._shades = shading(self._tokens)
        self.refresh()

    def _lay_out(self) -> None:
        # Leave room for the scroll bar, even while it is hidden.
        width = max(1, self.scrollable_content_region.width)
        self._lines = laid_out(self._tokens, width)
        self._shades = self._shading(self._tokens)
        self.virtual_size = Size(width, len(self._lines))
        self.refresh()

    def on_mount(self) -> None:
        """Use the theme's colours, now and whenever the theme changes."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self._take_colours())
        self._take_colours()

    def _take_colours(self) -> None:
        own = self.visual_style
        self._plain = own.rich_style
        shades = shade_styles(self.app.theme_variables)
        self._styles = [(own + shade).rich_style for shade in shades]
        self.refresh()

    def on_resize(self) -> None:
        """Lay out the lines for the new width."""
        self._lay_out()

    # Drawing

    def render_line(self, y: int) -> Strip:
        """Render one line of the visible part."""
        width = self.scrollable_content_region.width
        number = y + int(self.scroll_y)
        spans = self._lines[number] if number < len(self._lines) else []
        segments = [Segment(span.text, self._style(span)) for span in spans]
        return Strip(segments).adjust_cell_length(width, self._plain)

    def _style(self, span: Span) -> RichStyle:
        style = self._styles[self._shades[span.token]] if self._styles else self._plain
        return style + RichStyle(reverse=True) if span.token == self.pointed else style

    # Moving

    def action_move(self, step: int) -> None:
        self._put_cursor(self._cursor + step)

    def action_move_line(self, step: int) -> None:
        """Move the cursor to the token above (-1) or below (1)."""
        if place := self._place_of(self._cursor):
            row, span = place
            self._put_cursor(self._token_near(span.x, row + step))

    def action_move_page(self, pages: int) -> None:
        self.action_move_line(pages * max(1, self.scrollable_content_region.height - 1))

    def action_go(self, token: int) -> None:
        """Move the cursor to a token; -1 is the last one."""
        self._put_cursor(token if token >= 0 else len(self._tokens) - 1)

    def next_surprise(self) -> None:
        """Move to the next token that was not ranked first; the search wraps around."""
        count = len(self._tokens)
        for step in range(1, count + 1):
            token = (self._cursor + step) % count
            if self._tokens[token].rank > 1:
                self._put_cursor(token)
                return
        self.app.bell()

    def _put_cursor(self, token: int) -> None:
        if not self._tokens:
            return
        self._cursor = min(max(token, 0), len(self._tokens) - 1)
        self._under_mouse = None
        if place := self._place_of(self._cursor):
            row, _ = place
            self.scroll_to_region(Region(0, row, 1, 1), animate=False)
        self._show_pointed()

    def _place_of(self, token: int) -> tuple[int, Span] | None:
        """The line and the first span of a token."""
        for row, line in enumerate(self._lines):
            if line and line[-1].token >= token:
                return row, next(span for span in line if span.token >= token)
        return None

    def _token_near(self, x: int, row: int) -> int:
        line = self._lines[min(max(row, 0), len(self._lines) - 1)]
        if not line:
            return self._cursor
        return next((span.token for span in line if x < span.x + span.width), line[-1].token)

    def _show_pointed(self) -> None:
        self.refresh()
        self.post_message(self.Pointed())

    # The mouse

    def _token_at(self, event: events.MouseEvent) -> int | None:
        offset = event.get_content_offset(self)
        if offset is None:
            return None
        row, x = offset.y + int(self.scroll_y), offset.x
        line = self._lines[row] if row < len(self._lines) else []
        return next((span.token for span in line if span.x <= x < span.x + span.width), None)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Point at the token under the mouse."""
        token = self._token_at(event)
        if token != self._under_mouse:
            self._under_mouse = token
            self._show_pointed()

    def on_leave(self) -> None:
        """Point at the token at the cursor again."""
        if self._under_mouse is not None:
            self._under_mouse = None
            self._show_pointed()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the token under the mouse."""
        token = self._token_at(event)
        if token is not None:
            self._put_cursor(token)
