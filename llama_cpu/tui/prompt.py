"""The box in which the user writes."""

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from llama_cpu.text import printable


class Prompt(TextArea):
    """A multi-line prompt: Enter sends, Shift+Enter and Ctrl+J begin a new line."""

    ALLOW_MAXIMIZE = False
    BINDINGS = [
        # For the footer; the keys are handled in _on_key.
        Binding("enter", "send", "Send", key_display="Enter"),
        Binding("shift+enter,ctrl+j", "newline", "Line", key_display="^j"),
    ]

    class Sent(Message):
        """The user pressed Enter. The text stays in the box until the screen takes it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(
            placeholder="Ask something",
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            tab_behavior="focus",
        )
        self.cursor_blink = False  # each blink would be sent over the wire

    def action_send(self) -> None:
        """Offer the text to the screen, unless there is none."""
        if self.text.strip():
            self.post_message(self.Sent(self.text))

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    def take(self) -> str:
        """Empty the box and return what was in it."""
        text = self.text
        self.clear()
        self.say("")
        return text

    def put_back(self, text: str) -> None:
        """Return a text that was not answered, before whatever has been written meanwhile."""
        written = self.text
        self.text = f"{text}\n{written}" if written else text
        self.move_cursor(self.document.end)

    def say(self, hint: str) -> None:
        """Show a short hint on the lower edge of the box; an empty one removes it."""
        self.border_subtitle = hint

    def on_text_area_changed(self) -> None:
        """A hint has served its purpose once the user writes on."""
        self.say("")

    async def _on_key(self, event: events.Key) -> None:
        # Here and not by bindings, which are looked up while the letters typed before them may
        # still wait in this widget's queue.
        if event.key == "enter":
            self.action_send()
        elif event.key in ("shift+enter", "ctrl+j"):
            self.action_newline()
        else:
            return  # TextArea's own handler is called next
        event.stop()
        event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        # Runs before TextArea's own handler, which inserts event.text. Terminals send pasted
        # line ends as carriage returns; control characters must not reach the screen.
        event.text = printable(event.text.replace("\r\n", "\n").replace("\r", "\n"))
