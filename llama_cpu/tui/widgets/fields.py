"""Text fields whose text is always safe to draw, at any size."""

from typing import Any

from textual.strip import Strip
from textual.widgets import Input, TextArea
from textual.widgets.text_area import Edit, EditResult

from llama_cpu.system.text import cleaned


class LineField(Input):
    """A field of one line."""

    def validate_value(self, value: str) -> str:
        """Replace control characters, and line breaks by spaces."""
        return cleaned(value).replace("\n", " ")


class TextField(TextArea):
    """A field of several lines."""

    def __init__(self, text: str = "", **options: Any) -> None:
        super().__init__(cleaned(text), **options)

    def load_text(self, text: str) -> None:
        """Replace the whole text by another one, cleaned."""
        super().load_text(cleaned(text))

    def edit(self, edit: Edit) -> EditResult:
        """Clean what is typed, pasted or inserted."""
        edit.text = cleaned(edit.text)
        return super().edit(edit)

    def render_line(self, y: int) -> Strip:
        """Draw nothing if there is no room, where TextArea fails with its placeholder."""
        return super().render_line(y) if self.content_size.width > 0 else Strip.blank(0)
