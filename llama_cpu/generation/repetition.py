"""Notices an answer that repeats itself without end.

Small models fall into loops: one word, or the same sentences, again and again until the longest
length of an answer. What distinguishes a loop from a table, a ruler of dashes or a refrain is that
exactly the same tokens follow each other many times, with nothing between them, and over a length.
"""

import re
from collections import defaultdict, deque

ENDED = "The answer repeated itself and was ended."  # for the user, outside the app
PROSE_TIMES, PROSE_TOKENS = 4, 64
OTHER_TIMES, OTHER_TOKENS = 8, 384  # of tables, numbers, rulers and code, which repeat on purpose
LONGEST_PERIOD = 256  # tokens
# Marks of code and tables: symbols that prose does not use, calls, and lines that are indented.
_STRUCTURE = re.compile(r"[|{}\[\]<>=;\\]|\w\(|^(?: {4}|\t)", re.MULTILINE)
_LEAST_LETTERS = 2 / 3  # of the visible characters of prose
_LINE_NUMBER = -1  # in place of the number at the beginning of a line
_FENCE = "```"  # begins and ends code in Markdown


class LoopDetector:
    """Takes the tokens of one answer and tells when they have become a loop.

    The answer is a loop if its end consists of the same tokens, at most LONGEST_PERIOD of them,
    PROSE_TIMES times or more and over PROSE_TOKENS or more; if they are no prose, OTHER_TIMES and
    OTHER_TOKENS. Numbers that begin a line count as equal, so that a list of the same items is a
    loop although it is numbered.

    A token costs time in proportion to how often it occurred among the last LONGEST_PERIOD.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._places: defaultdict[int, deque[int]] = defaultdict(deque)  # of each recent token
        # For each period, in tokens: how many of the last tokens equal the one a period before.
        self._equal: dict[int, int] = {}
        self._line = ""  # the beginning of the present line
        self._in_code = False

    def push(self, token_id: int, piece: str) -> bool:
        """Take the next token and its text; return whether the answer is a loop now."""
        begins_line = not self._line.strip()
        numbers_line = self._line.strip().isdigit() and not self._line[-1].isspace()
        self._read(piece)
        if piece.strip().isdigit():
            if numbers_line:  # the next digit of the same number
                return False
            token_id = _LINE_NUMBER if begins_line else token_id
        here = len(self._pieces)
        self._pieces.append(piece)
        places = self._places[token_id]
        while places and here - places[0] > LONGEST_PERIOD:
            places.popleft()
        self._equal = {here - place: self._equal.get(here - place, 0) + 1 for place in places}
        places.append(here)
        return any(self._is_loop(period, equal) for period, equal in self._equal.items())

    def _read(self, piece: str) -> None:
        """Follow lines, and the fences of code."""
        first, *others = piece.split("\n")
        self._line = (self._line + first)[:20]
        for line in others:
            if self._line.lstrip().startswith(_FENCE):
                self._in_code = not self._in_code
            self._line = line[:20]

    def _is_loop(self, period: int, equal: int) -> bool:
        length = period + equal
        if length < max(PROSE_TIMES * period, PROSE_TOKENS):
            return False
        if length >= max(OTHER_TIMES * period, OTHER_TOKENS):
            return True
        return not self._in_code and is_prose("".join(self._pieces[-period:]))


def is_prose(text: str) -> bool:
    """Whether a text consists mostly of letters, without the marks of code and tables."""
    visible = [letter for letter in text if not letter.isspace()]
    letters = sum(letter.isalpha() for letter in visible)
    mostly_letters = letters > 0 and letters >= _LEAST_LETTERS * len(visible)
    return mostly_letters and not _STRUCTURE.search(text)
