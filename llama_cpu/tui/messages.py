"""Textual messages that more than one screen or controller posts."""

from textual.message import Message


class AnswerFailed(Message):
    """The model's thread raised something other than UserError."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Warned(Message):
    """A warning for the user, raised in any thread."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
