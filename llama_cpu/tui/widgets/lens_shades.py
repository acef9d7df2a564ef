"""The shades of tokens, by probability or by time.

All shades but the first two, which stand for usual tokens, differ in more than their colour.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from textual.style import Style

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.lens import LensToken


SHADES = (
    "on $success 25%",
    "on $success 10%",
    "underline on $warning 20%",
    "bold underline on $warning 40%",
    "bold italic underline on $error 45%",
)
UNKNOWN = len(SHADES)  # a token whose time was not measured; plain text
_PROBABILITIES = (0.9, 0.5, 0.2, 0.05)  # the minimum of each shade but the last
_MULTIPLES = (1.25, 2, 4, 8)  # of the median; the maximum of each shade but the last
BY_PROBABILITY = ("from 90%", "from 50%", "from 20%", "from 5%", "less")
BY_TIME = ("the usual time", "to 2 times", "to 4", "to 8", "more")


def by_probability(tokens: "Sequence[LensToken]") -> list[int]:
    """The shade of each token, as an index, by its probability."""
    return [_first(token.probability >= least for least in _PROBABILITIES) for token in tokens]


def by_time(tokens: "Sequence[LensToken]") -> list[int]:
    """The shade of each token, as an index, by its time."""
    usual = median_seconds(tokens) or 0
    return [
        UNKNOWN
        if token.seconds is None
        else _first(token.seconds <= usual * most for most in _MULTIPLES)
        for token in tokens
    ]


def median_seconds(tokens: "Sequence[LensToken]") -> float | None:
    """The median time of the tokens, without the first one if there are others."""
    known = [token.seconds for token in tokens if token.seconds is not None]
    return statistics.median(known[1:] or known) if known else None


def shade_styles(variables: dict[str, str]) -> list[Style]:
    """The styles of the shades in a theme's colours, and that of UNKNOWN."""
    return [*(Style.parse(shade, variables) for shade in SHADES), Style()]


def _first(conditions: Iterable[bool]) -> int:
    """The number of conditions before the first one that holds."""
    count = 0
    for holds in conditions:
        if holds:
            break
        count += 1
    return count
