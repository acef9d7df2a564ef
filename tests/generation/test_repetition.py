"""Loops are noticed; tables, code, rulers, lists and refrains are not taken for loops."""

import re
from collections.abc import Iterator

import pytest

from llama_cpu.generation.repetition import (
    OTHER_TOKENS,
    PROSE_TOKENS,
    LoopDetector,
    is_prose,
)

SENTENCE = "The best way to learn is to learn the best way to learn. "
PARAGRAPH = (
    "A lighthouse is a tower that shows ships the way at night. It stands on a rock near the sea, "
    "and its lamp is lit when the sun goes down. A keeper cleans the glass and writes into a book "
    "which ships have passed.\n\n"
)
POEM = """\
The wind is low, the moon is high,
and all the boats are home.

Sleep now, sleep now, little sea,
sleep until the morning.
Sleep now, sleep now, little sea,
sleep until the morning.

The lamp is out, the street is dark,
and all the doors are shut.

Sleep now, sleep now, little sea,
sleep until the morning.
Sleep now, sleep now, little sea,
sleep until the morning.
La la la la la la la la la la la la.
"""
TABLE = "| Day | Morning | Evening |\n| --- | --- | --- |\n" + "".join(
    f"| {day} | rest | rest |\n" for day in ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
)
EMPTY_TABLE = "| Name | Age | Town |\n|---|---|---|\n" + "|  |  |  |\n" * 25
RULER = "=" * 80 + "\nTitle\n" + "-" * 80 + "\n" + "*" * 200 + "\n"
BOARD = "board = [\n" + "    [None, None, None, None, None, None, None, None],\n" * 8 + "]\n"
FENCED_CODE = "Here it is:\n```\n" + "do the same step again\n" * 20 + "```\n"
CODE = "    print(line)\n    wait(1)\n" * 12
NUMBERS = ", ".join(["0"] * 120) + "\n" + " ".join(map(str, range(200)))
LIST = "".join(
    f"{number}. Eat {what} every day.\n"
    for number, what in enumerate(["bread", "fruit", "fish", "rice", "nuts", "beans"] * 3, 1)
)
TIMES_TABLE = "".join(f"3 times {number} is {3 * number}.\n" for number in range(1, 31))
DRAWING = ("    /\\    " * 6 + "\n" + "   /  \\   " * 6 + "\n") * 4


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """Tokens of a toy vocabulary: words with the space before them, single digits and symbols."""
    for piece in re.findall(r" ?[^\W\d_]+|\d|\s|[^\w\s]|_", text):
        yield hash(piece) & 0x7FFFFFFF, piece


def noticed_after(text: str) -> int | None:
    """The number of tokens after which the text is a loop; None if it is none."""
    detector = LoopDetector()
    for count, (token_id, piece) in enumerate(pieces(text), 1):
        if detector.push(token_id, piece):
            return count
    return None


@pytest.mark.parametrize(
    "text",
    [
        POEM,
        TABLE,
        EMPTY_TABLE,
        RULER,
        BOARD,
        FENCED_CODE,
        CODE,
        NUMBERS,
        LIST,
        TIMES_TABLE,
        DRAWING,
    ],
)
def test_what_repeats_on_purpose_is_no_loop(text: str) -> None:
    assert noticed_after(text) is None


@pytest.mark.parametrize(
    ("loop", "most"),
    [
        (" wise", PROSE_TOKENS),
        (" ha ha!", PROSE_TOKENS + 8),
        (SENTENCE, 80),
        ("很好。", PROSE_TOKENS + 8),
        (PARAGRAPH, 240),
        ("Il a dit « oui », et elle a dit « non ». ", 80),
        (" !", OTHER_TOKENS + 8),
        ("0, ", OTHER_TOKENS + 8),
        ("| x | y |\n", OTHER_TOKENS + 20),
        ("```\nx = 1\n```\n", OTHER_TOKENS + 20),
    ],
)
def test_a_loop_is_noticed_wherever_it_begins(loop: str, most: int) -> None:
    assert noticed_after(loop * 400) is not None
    count = noticed_after(PARAGRAPH + loop * 400)
    before = len(list(pieces(PARAGRAPH)))
    assert count is not None and PROSE_TOKENS <= count - before <= most


def test_a_numbered_list_of_the_same_items_is_a_loop() -> None:
    text = "".join(f"{number}. Drink a lot of water.\n" for number in range(1, 100))
    count = noticed_after(text)
    assert count is not None and count < 120


def test_the_same_words_with_something_between_them_are_no_loop() -> None:
    names = [f"{first}{second}" for first in "bcdfgh" for second in ("an", "el", "ot", "ur")]
    assert noticed_after("".join(f"{name} said that {SENTENCE}" for name in names)) is None


def test_a_detector_begins_anew() -> None:
    """So an answer that is continued may repeat itself for as long again."""
    assert noticed_after(" wise" * (PROSE_TOKENS - 1)) is None
    assert noticed_after(" wise" * PROSE_TOKENS) == PROSE_TOKENS


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("A cat (a small one) sat.", True),
        ("call(it)", False),
        ("\tindented words\n", False),
        ("x = 1", False),
        ("...", False),
        ("", False),
    ],
)
def test_prose(text: str, prose: bool) -> None:
    assert is_prose(text) is prose
