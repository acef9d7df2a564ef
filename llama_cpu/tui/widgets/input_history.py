"""What was sent in this run, to be had again, and what is being written meanwhile."""


class InputHistory:
    """Lines to step through: all that was sent, the oldest first, and at the end the draft.

    What is changed in a line while stepping stays changed until something is sent.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._lines = [""]
        self._at = 0

    def add(self, text: str) -> None:
        """It was sent."""
        if text.strip() and self._sent[-1:] != [text]:
            self._sent.append(text)
        self._lines = [*self._sent, ""]
        self._at = len(self._sent)

    def step(self, text: str, by: int) -> str | None:
        """The line before (-1) or after (1) the present one, whose text is kept; else None."""
        if not 0 <= self._at + by < len(self._lines):
            return None
        self._lines[self._at] = text
        self._at += by
        return self._lines[self._at]
