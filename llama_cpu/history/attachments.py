"""Files that are attached to a message: how they are kept in its text, and found in it again.

A message with a file is one text, which the model reads, the history stores and exports contain:

    <file name="notes.txt" lines="2" tokens="9">
    The first line.
    The second line.
    </file>
    What is missing in these notes?

The number of lines says where the file ends, so it may contain anything. Whatever does not look
exactly like this is part of the message.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPENING = re.compile(r'<file name="([^"\n]*)" lines="(\d{1,8})" tokens="(\d{1,9})">')
_CLOSING = "</file>"
_LONGEST_NAME = 80  # characters


@dataclass(frozen=True)
class Attachment:
    """A text file. ``tokens``: their number when it was attached, by the model of that time."""

    name: str
    text: str
    tokens: int

    @property
    def label(self) -> str:
        """The file in one line: ``[notes.txt, 9 tokens]``."""
        return f"[{self.name}, {self.tokens:,} tokens]"

    @property
    def block(self) -> str:
        """The file as a part of a message."""
        lines = self.text.count("\n") + 1
        opening = f'<file name="{self.name}" lines="{lines}" tokens="{self.tokens}">'
        return f"{opening}\n{self.text}\n{_CLOSING}"


def attachment(name: str, text: str, tokens: int) -> Attachment:
    """Attach a text; line ends at its end are left out, and quotes in the name are replaced."""
    tidy = " ".join(name.replace('"', "'").split())[:_LONGEST_NAME]
    return Attachment(tidy, text.rstrip("\n"), tokens)


def parts(message: str) -> Iterator[str | Attachment]:
    """Split a message into attachments and the lines between them, joined."""
    lines = message.split("\n")
    plain: list[str] = []
    at = 0
    while at < len(lines):
        opening = _OPENING.fullmatch(lines[at]) if lines[at].startswith("<file") else None
        end = at + 1 + int(opening[2]) if opening else 0
        if opening and end < len(lines) and lines[end] == _CLOSING:
            if plain:
                yield "\n".join(plain)
            plain = []
            yield Attachment(opening[1], "\n".join(lines[at + 1 : end]), int(opening[3]))
            at = end + 1
        else:
            plain.append(lines[at])
            at += 1
    if plain:
        yield "\n".join(plain)


def collapsed(message: str) -> str:
    """The message with one line in place of each file."""
    if "<file " not in message:
        return message
    shown = (part if isinstance(part, str) else part.label for part in parts(message))
    return "\n".join(shown)
