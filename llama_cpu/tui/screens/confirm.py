"""A question with two answers."""

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from llama_cpu.tui.actions import Scope, bindings


class Confirm(ModalScreen[bool]):
    """Asks before something is lost. The answers are y and n, buttons, and clicks."""

    BINDINGS = bindings(Scope.CONFIRM)

    def __init__(self, question: str, yes: str, no: str) -> None:
        super().__init__()
        self._question, self._yes, self._no = question, yes, no

    def compose(self) -> ComposeResult:
        with Vertical(id="question"):
            yield Static(self._question, markup=False)
            with Horizontal():
                # The harmless answer has the focus.
                yield Button(f"{self._no} (n)", id="no")
                yield Button(f"{self._yes} (y)", id="yes", variant="warning")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Return the answer of the button."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        """Return the answer of the key."""
        self.dismiss(answer)


class QuitQuestion(Confirm):
    """Asks whether to quit."""

    def __init__(self) -> None:
        super().__init__("Quit?", yes="Quit", no="Stay")
