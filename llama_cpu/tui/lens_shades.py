"""How tokens are coloured: by what the model thought of them, or by the time that they took.

Each shade differs from the others in more than its colour, but for the two that stand for what is
usual.
"""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.style import Style

if TYPE_CHECKING:
    from llama_cpu.chat.lens import LensToken


SHADES = (
    "on $success 25%",
    "on $success 10%",
    "underline on $warning 20%",
    "bold underline on $warning 40%",
    "bold italic underline on $error 45%",
)
_PROBABILITIES = (0.9, 0.5, 0.2, 0.05)  # the least of each shade but the last
_MULTIPLES = (1.25, 2, 4, 8)  # of the median: the most of each shade but the last
BY_PROBABILITY = ("90% and more", "50%", "20%", "5%", "less")
BY_TIME = ("the usual time", "to 2 times", "to 4", "to 8", "more")


def by_probability(tokens: "Sequence[LensToken]") -> list[int]:
    """Each token's shade."""
    return [_first(token.probability >= least for least in _PROBABILITIES) for token in tokens]


def by_time(tokens: "Sequence[LensToken]") -> list[int]:
    """Each token's shade; what was not measured has the usual one."""
    usual = median_seconds(tokens)
    if not usual:
        return [0] * len(tokens)
    return [_first((token.seconds or 0) <= usual * most for most in _MULTIPLES) for token in tokens]


def median_seconds(tokens: "Sequence[LensToken]") -> float | None:
    """The usual time of a token; of the first one's only where there is no other."""
    known = [token.seconds for token in tokens if token.seconds is not None]
    return statistics.median(known[1:] or known) if known else None


def shade_styles(variables: dict[str, str]) -> list[Style]:
    """The shades in a theme's colours."""
    return [Style.parse(shade, variables) for shade in SHADES]


def _first(conditions) -> int:
    """How many do not hold before the first that does."""
    count = 0
    for holds in conditions:
        if holds:
            break
        count += 1
    return count
