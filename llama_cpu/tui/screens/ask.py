"""A question that is answered with a line of text."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.widgets.fields import LineField


class Ask(ModalScreen[str | None]):
    """Asks for a line of text; the result is None if the user pressed Esc."""

    BINDINGS = bindings(Scope.ASK)

    def __init__(self, question: str, text: str) -> None:
        super().__init__()
        self._question, self._text = question, text

    def compose(self) -> ComposeResult:
        with Vertical(id="question"):
            yield Static(self._question, markup=False)
            yield LineField(self._text)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the line."""
        self.dismiss(event.value)
