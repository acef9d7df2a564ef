"""The messages that were sent in this run, and the draft that is being written."""


class InputHistory:
    """Lines to step through: all sent messages, the oldest first, and the draft at the end.

    A line that is changed while stepping stays changed until something is sent.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._lines = [""]
        self._at = 0

    def add(self, text: str) -> None:
        """Add a sent message, and begin a new draft."""
        if text.strip() and self._sent[-1:] != [text]:
            self._sent.append(text)
        self._lines = [*self._sent, ""]
        self._at = len(self._sent)

    def step(self, text: str, by: int) -> str | None:
        """Keep ``text`` as the present line; return the previous (-1) or next (1) one, if any."""
        if not 0 <= self._at + by < len(self._lines):
            return None
        self._lines[self._at] = text
        self._at += by
        return self._lines[self._at]
