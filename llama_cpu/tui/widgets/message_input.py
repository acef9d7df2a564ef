"""The box in which the user writes."""

from collections.abc import Callable

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from llama_cpu.system.text import printable
from llama_cpu.tui.controllers.slash import as_message, as_typed, is_command
from llama_cpu.tui.keys import shown
from llama_cpu.tui.widgets.input_history import InputHistory


class MessageInput(TextArea):
    """A multi-line prompt: Enter sends, Shift+Enter and Ctrl+J begin a new line."""

    ALLOW_MAXIMIZE = False
    BINDINGS = [
        # For the footer; the keys are handled in _on_key.
        Binding("enter", "send", "Send", key_display="Enter", id="send", tooltip="send the prompt"),
        Binding(
            "shift+enter,ctrl+j",
            "newline",
            "Line",
            key_display="^j",
            id="new_line",
            tooltip="begin a new line in the prompt",
        ),
    ]

    class Sent(Message):
        """The user pressed Enter. The text stays in the box until the screen takes it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Command(Message):
        """The user pressed Enter behind a command. The text stays in the box, too."""

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
        self.memory = InputHistory()
        # Takes a key, or leaves it to the box.
        self.before_key: Callable[[str], bool] = lambda key: False
        self._hint = self._count = ""

    def on_mount(self) -> None:
        """Say where help is."""
        key = shown(getattr(self.app, "keymap", {}).get("help", "f1").split(",")[0])
        self.placeholder = f"Ask something ({key}: help)"

    def action_send(self) -> None:
        """Offer the text to the screen, unless there is none."""
        if is_command(self.text):
            self.post_message(self.Command(self.text))
        elif self.text.strip():
            self.post_message(self.Sent(self.text))

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    def take(self) -> str:
        """Empty the box and return the message that was in it."""
        text = self.lay_aside()
        self.memory.add(text)
        return as_message(text)

    def lay_aside(self) -> str:
        """Empty the box and return what was typed, for ``put_back_draft``."""
        text = self.text
        self.clear()
        self.say("")
        return text

    def put_back(self, text: str) -> None:
        """Return a text that was not answered, before whatever has been written meanwhile."""
        self.put_back_draft(as_typed(text))

    def put_back_draft(self, text: str) -> None:
        """The same with a text as it was typed."""
        written = self.text
        self.text = f"{text}\n{written}" if written else text
        self.move_cursor(self.document.end)

    def say(self, hint: str) -> None:
        """Show a short hint on the lower edge of the box; an empty one removes it."""
        self._hint = hint
        self.border_subtitle = hint or self._count

    def show_count(self, count: str) -> None:
        """Show how much is written, where there is no hint."""
        self._count = count
        self.say(self._hint)

    @property
    def is_on_first_row(self) -> bool:
        """As the text is wrapped."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y == 0

    @property
    def is_on_last_row(self) -> bool:
        """As the text is wrapped."""
        row = self.wrapped_document.location_to_offset(self.cursor_location).y
        return row == self.wrapped_document.height - 1

    def on_text_area_changed(self) -> None:
        """A hint has served its purpose once the user writes on."""
        if self.text:
            self.say("")

    def keys_of(self, action: str) -> list[str]:
        """The keys of an action, perhaps the user's own."""
        usual = {each.id: each.key for each in self.BINDINGS if isinstance(each, Binding)}
        return getattr(self.app, "keymap", {}).get(action, usual[action]).split(",")

    async def _on_key(self, event: events.Key) -> None:
        # Here and not by bindings, which are looked up while the letters typed before them may
        # still wait in this widget's queue.
        if self.before_key(event.key):
            pass
        elif event.key in self.keys_of("send"):
            self.action_send()
        elif event.key in self.keys_of("new_line"):
            self.action_newline()
        else:
            return  # TextArea's own handler is called next
        event.stop()
        event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        # Runs before TextArea's own handler, which inserts event.text. Terminals send pasted
        # line ends as carriage returns; control characters must not reach the screen. Stopped here,
        # as the app would give it to the prompt again if another screen has passed it on.
        event.stop()
        event.text = printable(event.text.replace("\r\n", "\n").replace("\r", "\n"))
