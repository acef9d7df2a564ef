"""Finds words in the text of messages as it is shown, and marks them there."""

from dataclasses import dataclass, replace
from functools import lru_cache

from textual.content import Content

from llama_cpu.chat.thinking import split_thinking
from llama_cpu.history.attachments import collapsed
from llama_cpu.system.text import printable
from llama_cpu.tui.markdown import pieces

# They differ in more than colour, for terminals without any.
PRESENT = "bold reverse $text-warning"
OTHER = "underline on $warning 30%"


@dataclass(frozen=True)
class Search:
    """The words that are searched, and which of their occurrences in a message is the present one.

    ``present`` counts from 0; no occurrence has a negative number.
    """

    words: str
    present: int = -1

    def beyond(self, text: str) -> "Search":
        """The same search in what follows ``text``."""
        return replace(self, present=self.present - len(occurrences(text, self.words)))


class Marker:
    """Marks the occurrences in the texts that it is called with, one text after the other."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._count = 0

    def __call__(self, content: Content) -> Content:
        for start, end in occurrences(content.plain, self._search.words):
            style = PRESENT if self._count == self._search.present else OTHER
            content = content.stylize(style, start, end)
            self._count += 1
        return content


def row_of_present(text: Content, width: int) -> int | None:
    """The row of the present occurrence, if there is one, after the text is wrapped."""
    for row, line in enumerate(text.wrap(max(1, width))):
        if any(span.style == PRESENT for span in line.spans):
            return row
    return None


def occurrences(text: str, words: str) -> list[tuple[int, int]]:
    """The beginning and end of every occurrence, whatever the case; they do not overlap."""
    wanted = words.casefold()
    folded = text.casefold()
    if not wanted or wanted not in folded:
        return []
    # Some letters are two when folded (ß: ss). For each folded letter, where it comes from:
    places = [place for place, letter in enumerate(text) for _ in letter.casefold()]
    found, start = [], folded.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        found.append((places[start], places[end - 1] + 1))
        start = folded.find(wanted, end)
    return found


@lru_cache(maxsize=4096)
def shown_texts(role: str, text: str) -> tuple[str, ...]:
    """The texts of a message in the order in which they are shown and marked."""
    if role == "user":
        return (printable(collapsed(text)),)
    text = printable(text)
    thinking, answer, _ = split_thinking(text)
    texts = [thinking]

    def collect(content: Content) -> Content:
        texts.append(content.plain)
        return content

    for piece in pieces(answer):
        piece.changed(collect)
    return tuple(texts)


def count(role: str, text: str, words: str) -> int:
    """The number of occurrences in a message."""
    return sum(len(occurrences(each, words)) for each in shown_texts(role, text))
