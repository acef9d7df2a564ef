"""Lays out text for a width: paragraphs with a bullet or an indent, code, and tables."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

from rich.cells import cell_len
from textual.content import Content

BULLET_STYLE = "$text-primary"
CODE_STYLE = "on $surface"
Change = Callable[[Content], Content]
NARROWEST = 4  # columns of text, whatever the indent or the number of table columns


@dataclass(frozen=True)
class Row:
    """A run of text, and the prefixes of its first and its further lines."""

    content: Content
    first: str = ""
    rest: str = ""

    def behind(self, first: str, rest: str) -> "Row":
        """The same row, one level further in."""
        return Row(self.content, first + self.first, rest + self.rest)

    def changed(self, change: Change) -> "Row":
        """The same row with another text."""
        return replace(self, content=change(self.content))

    def lines(self, width: int) -> list[Content]:
        """Lay out the row in ``width`` columns."""
        if not self.rest:
            return [self.content]  # the widget wraps it, so that copies contain no line breaks
        wrapped = self.content.wrap(max(NARROWEST, width - cell_len(self.rest))) or [Content()]
        starts = [self.first] + [self.rest] * (len(wrapped) - 1)
        return [
            Content.assemble((start, BULLET_STYLE), line)
            for start, line in zip(starts, wrapped, strict=True)
        ]


@dataclass(frozen=True)
class Code:
    """Lines of code on a background. Long lines wrap, as scrolling would need a mouse."""

    content: Content
    indent: str = ""

    def behind(self, first: str, rest: str) -> "Code":
        """The same code, one level further in."""
        return replace(self, indent=rest + self.indent)

    def changed(self, change: Change) -> "Code":
        """The same code with another text."""
        return replace(self, content=change(self.content))

    def lines(self, width: int) -> list[Content]:
        """Lay out the code in ``width`` columns."""
        room = max(NARROWEST, width - cell_len(self.indent) - 2)
        return [
            self.indent
            + line.extend_right(max(0, room - line.cell_length))
            .pad(1, 1)
            .stylize_before(CODE_STYLE)
            for line in self.content.wrap(room) or [Content()]
        ]


@dataclass(frozen=True)
class Table:
    """A table. Columns are as wide as their text, or narrower if the table would not fit."""

    cells: tuple[tuple[Content, ...], ...]  # the first row is the header
    alignments: tuple[str, ...] = ()  # of the columns: left, center or right
    indent: str = ""

    def behind(self, first: str, rest: str) -> "Table":
        """The same table, one level further in."""
        return replace(self, indent=rest + self.indent)

    def changed(self, change: Change) -> "Table":
        """The same table with other texts."""
        return replace(self, cells=tuple(tuple(map(change, row)) for row in self.cells))

    def lines(self, width: int) -> list[Content]:
        """Lay out the table in ``width`` columns."""
        widths = self._column_widths(width - cell_len(self.indent))
        rule = Content.styled(self.indent + "─┼─".join("─" * w for w in widths), "dim")
        alignments = self.alignments or ("left",) * len(widths)
        header, *body = [_table_row(row, widths, alignments, self.indent) for row in self.cells]
        return [*[line.stylize("bold") for line in header], rule, *chain.from_iterable(body)]

    def _column_widths(self, room: int) -> list[int]:
        widths = [
            max(cell.cell_length for cell in column) for column in zip(*self.cells, strict=True)
        ]
        room -= 3 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > NARROWEST:
            widths[widths.index(max(widths))] -= 1
        return widths


def _table_row(
    cells: tuple[Content, ...], widths: list[int], alignments: tuple[str, ...], indent: str
) -> list[Content]:
    columns = [cell.wrap(max(1, w)) or [Content()] for cell, w in zip(cells, widths, strict=True)]
    height = max(len(column) for column in columns)
    bar = Content.styled(" │ ", "dim")
    lines = []
    for y in range(height):
        parts = [(column[y] if y < len(column) else Content()) for column in columns]
        padded = [
            _aligned(part, w, alignment)
            for part, w, alignment in zip(parts, widths, alignments, strict=True)
        ]
        lines.append(indent + bar.join(padded))
    return lines


def _aligned(text: Content, width: int, alignment: str) -> Content:
    missing = max(0, width - text.cell_length)
    left = {"right": missing, "center": missing // 2}.get(alignment, 0)
    return text.pad(left, missing - left)
