"""Formats numbers as short text: durations, rates, bars and sparklines, readable without colour."""

from collections.abc import Sequence
from itertools import pairwise

from textual.content import Content

from llama_cpu.system.text import human_bytes

PANEL_WIDTH = 32  # characters between the borders of a panel
MISSING = "-"
_BARS = "▁▂▃▄▅▆▇█"


def duration(seconds: float | None) -> str:
    """Format seconds: ``18.3 ms``, ``412 ms``, ``12.4 s``, ``3 min 5 s``; None is a dash."""
    if seconds is None:
        return MISSING
    milliseconds = seconds * 1000
    if milliseconds < 100:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def rate(tokens_per_second: float) -> str:
    """Format a rate; zero is a dash."""
    if not tokens_per_second:
        return MISSING
    digits = 0 if tokens_per_second >= 100 else 1
    return f"{tokens_per_second:.{digits}f} tok/s"


def bar(fraction: float, width: int) -> str:
    """Draw a progress bar. Its two parts differ in shape, so that it needs no colour."""
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * filled + "┄" * (width - filled)


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values in at most ``width`` characters; each shows the maximum of its share of values.

    The scale begins at zero, so that a steady series looks steady.
    """
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)]
    highest = [max(values[start:end]) for start, end in pairwise(edges)]
    top = max(highest) or 1.0
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in highest)


def part_of(part: int, whole: int) -> str:
    """Format two amounts of bytes: ``8.9 of 180 MiB``, ``900 MiB of 23.5 GiB``."""
    small, large = human_bytes(part), human_bytes(whole)
    if small.split()[-1] == large.split()[-1]:
        small = small.split()[0]
    return f"{small} of {large}"


def row(label: str, value: str) -> Content:
    """Make a line of a panel, with a label on the left and its value on the right."""
    return Content.assemble((label, "$foreground 65%"), f"{value:>{PANEL_WIDTH - len(label)}}")


def drawn(line: str) -> Content:
    """Make a line of a panel from a bar or a sparkline."""
    return Content.styled(line, "$text-primary")


def lines(*parts: Content) -> Content:
    """Join the lines of a panel."""
    return Content("\n").join(parts)
