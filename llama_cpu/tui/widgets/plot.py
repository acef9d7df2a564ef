"""A plot of times in braille dots, readable without colour.

A character has two columns of four dots. If there are more values than columns, a column spans its
share of the values from the minimum to the maximum, so that slow tokens stay visible.
"""

import math
from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

from llama_cpu.tui.number_format import duration

_LABEL = 9  # characters for the figures on the left
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))  # bits of a column, from the bottom
_BLANK = 0x2800
_CLOSE = 4  # characters; marks that are closer together on average are left out


class TimesPlot(Widget):
    """Plots times in seconds, and marks the beginnings of answers."""

    def __init__(self, title: str, id: str) -> None:
        super().__init__(id=id)
        self.border_title = title
        self._values: Sequence[float] = ()
        self._marks: Sequence[tuple[int, int]] = ()
        self._is_logarithmic = False

    def show(
        self, values: Sequence[float], marks: Sequence[tuple[int, int]], is_logarithmic: bool
    ) -> None:
        """Show values; ``marks`` are indices of values with the numbers to write below them."""
        shown = values, marks, is_logarithmic
        if shown != (self._values, self._marks, self._is_logarithmic):
            self._values, self._marks, self._is_logarithmic = shown
            self.refresh()

    def render(self) -> Content:
        """Render the plot in the present size."""
        width, height = self.content_size
        if not self._values:
            return Content.styled("Nothing was measured yet.", "$foreground 65%")
        columns, rows = width - _LABEL - 1, height - 2
        if columns < 2 or rows < 1:
            return Content("")
        low, high = scale(self._values, self._is_logarithmic)
        dots = drawn(self._values, columns, rows, low, high, self._is_logarithmic)
        labels = {0: high, rows - 1: low}
        if rows > 2:
            labels[rows // 2] = math.sqrt(low * high) if self._is_logarithmic else high / 2
        lines = [
            Content.assemble(
                (_label(labels.get(number)), "$foreground 65%"), (line, "$text-primary")
            )
            for number, line in enumerate(dots)
        ]
        axis = _axis(self._marks, len(self._values), columns)
        lines += [Content.styled(" " * _LABEL + line, "$foreground 65%") for line in axis]
        return Content("\n").join(lines)


def _label(seconds: float | None) -> str:
    return " " * _LABEL + "│" if seconds is None else f"{duration(seconds)[:_LABEL]:>{_LABEL}}┤"


def scale(values: Sequence[float], is_logarithmic: bool) -> tuple[float, float]:
    """The ends of the scale; it begins at zero unless ``is_logarithmic``."""
    high = max(values) or 1e-6
    if not is_logarithmic:
        return 0.0, high
    low = min((value for value in values if value > 0), default=high)
    return min(low, high / 2), high


def drawn(
    values: Sequence[float],
    columns: int,
    rows: int,
    low: float,
    high: float,
    is_logarithmic: bool = False,
) -> list[str]:
    """Draw ``rows`` lines of ``columns`` characters, from top to bottom."""
    steps = rows * 4 - 1

    def height(value: float) -> int:
        if is_logarithmic:
            part = math.log(max(value, low) / low) / math.log(high / low)
        else:
            part = value / high
        return round(part * steps)

    cells = [[_BLANK] * columns for _ in range(rows)]
    width = columns * 2
    for column in range(width):
        first = column * len(values) // width
        share = values[first : max(first + 1, (column + 1) * len(values) // width)]
        for dot in range(height(min(share)), height(max(share)) + 1):
            cells[rows - 1 - dot // 4][column // 2] |= _DOTS[column % 2][dot % 4]
    return ["".join(map(chr, line)).replace(chr(_BLANK), " ") for line in cells]


def _axis(marks: Sequence[tuple[int, int]], count: int, columns: int) -> tuple[str, str]:
    """Draw the axis, and below it the numbers that there is room for."""
    line, numbers = ["─"] * columns, [" "] * columns
    places = [(place * columns // count, number) for place, number in marks if place < count]
    free = 0
    for place, number in places:
        if len(places) * _CLOSE <= columns or place == 0:
            line[place] = "┴"
        text = str(number)
        if place >= free and place + len(text) <= columns:
            numbers[place : place + len(text)] = text
            free = place + len(text) + 2
    return "└" + "".join(line), " " + "".join(numbers).rstrip()
