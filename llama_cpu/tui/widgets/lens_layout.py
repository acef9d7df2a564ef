"""Breaks the tokens of an answer into lines, and gives each token a place on the screen."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from llama_cpu.system.text import printable

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.lens import LensToken

PART_OF_CHARACTER = "▯"
_LINE_END = "↵"
_TAB = "⇥   "
_UNDER = "◌"  # base for a combining character that stands alone
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
# Bidirectional controls, which would make a terminal reorder the whole line.
_TURNING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], PART_OF_CHARACTER)
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


@dataclass(frozen=True)
class Span:
    """The part of a line that belongs to one token."""

    token: int  # index in the answer
    text: str
    x: int  # in cells
    width: int


Line = list[Span]


def laid_out(tokens: "Sequence[LensToken]", width: int) -> list[Line]:
    """Lay out the lines of the answer, broken between words if possible."""
    lines: list[Line] = [[]]
    x = 0
    for word in _words(tokens):
        if x and x + sum(cell_len(text) for _, text in word) > width:
            lines.append([])
            x = 0
        for token, text in word:
            for part in _parts(text, width):
                length = cell_len(part)
                if x and x + length > width:
                    lines.append([])
                    x = 0
                lines[-1].append(Span(token, part, x, length))
                x += length
        if word[-1][1].endswith(_LINE_END):
            lines.append([])
            x = 0
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]


def escaped(text: str) -> str:
    """Quote the text of a token, so that spaces and unprintable characters can be seen."""
    shown = (_ESCAPES.get(each, each if each.isprintable() else _code(each)) for each in text)
    return f"“{''.join(shown)}”" if text else "no text"


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}"


def _words(tokens: "Sequence[LensToken]") -> Iterator[list[tuple[int, str]]]:
    """Yield runs of (token, text) that should not be broken; a line break ends a run."""
    word: list[tuple[int, str]] = []
    for piece in _pieces(tokens):
        if word and (piece[1].startswith(" ") or word[-1][1].endswith(_LINE_END)):
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


def _pieces(tokens: "Iterable[LensToken]") -> Iterator[tuple[int, str]]:
    for index, token in enumerate(tokens):
        for line in _LINES.findall(_visible(token)):
            yield index, line.replace("\n", _LINE_END)


def _visible(token: "LensToken") -> str:
    if not token.shown and (token.text.startswith("\\x") or not token.text):
        return PART_OF_CHARACTER
    text = printable(token.shown or token.text).translate(_TURNING).replace("\t", _TAB)
    return text if cell_len(text) or "\n" in text else _UNDER + text


def _parts(text: str, width: int) -> Iterator[str]:
    """Cut a text into parts that fit on a line."""
    if cell_len(text) <= width:
        yield text
        return
    part = ""
    for character in text:
        if part and cell_len(part + character) > width:
            yield part
            part = ""
        part += character
    yield part
