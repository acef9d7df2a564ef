"""The text area in which the user writes a message."""

from collections.abc import Callable, Mapping

from textual import events
from textual.message import Message

from llama_cpu.system.text import cleaned
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.input_history import InputHistory
from llama_cpu.tui.slash_commands import as_message, as_typed, split_command
from llama_cpu.tui.user_keys import keys_of, shown
from llama_cpu.tui.widgets.fields import TextField


class MessageInput(TextField):
    """A text area for one message: Enter sends it, Shift+Enter and Ctrl+J begin a new line."""

    ALLOW_MAXIMIZE = False
    BINDINGS = bindings(Scope.INPUT)  # for the footer; on_key handles them

    class Sent(Message):
        """The user sent a message. Its text stays in the box until the screen takes it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Command(Message):
        """The user sent a slash command. Its text stays in the box until the screen takes it.

        ``text``: all that is in the box; see ``split_command``.
        """

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, keymap: Mapping[str, str]) -> None:
        help_key = shown(keys_of("help", keymap).split(",")[0])
        super().__init__(
            placeholder=f"Ask something ({help_key}: help)",
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            tab_behavior="focus",
        )
        self._keymap = keymap
        self.cursor_blink = False  # over a network, each blink would be traffic
        self.input_history = InputHistory()
        # Called with each key first; returns whether it has handled the key.
        self.before_key: Callable[[str], bool] = lambda key: False
        # Whether a line stands for an attached file, so that it is only deleted as a whole.
        self.is_file_line: Callable[[str], bool] = lambda line: False
        self._hint = self._count = ""

    def action_send(self) -> None:
        """Post the text as a message or a command, unless it is empty."""
        if split_command(self.text)[1]:
            self.post_message(self.Command(self.text))
        elif self.text.strip():
            self.post_message(self.Sent(self.text))

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    def action_delete_left(self) -> None:
        """Delete the character before the cursor, or the line of a file that it is in."""
        if self.cursor_location[1] == 0 or not self._delete_file():
            super().action_delete_left()

    def action_delete_word_left(self) -> None:
        """Delete the word before the cursor, or the line of a file that it is in."""
        if self.cursor_location[1] == 0 or not self._delete_file():
            super().action_delete_word_left()

    def action_delete_right(self) -> None:
        """Delete the character after the cursor, or the line of a file that it is in."""
        if self.cursor_at_end_of_line or not self._delete_file():
            super().action_delete_right()

    def _delete_file(self) -> bool:
        """Delete the cursor's line if it stands for a file; return whether it does."""
        row = self.cursor_location[0]
        line = str(self.document.get_line(row))
        if not self.selection.is_empty or not self.is_file_line(line):
            return False
        is_last = row == self.document.line_count - 1
        end = (row, len(line)) if is_last else (row + 1, 0)
        self.delete((row, 0), end, maintain_selection_offset=False)
        return True

    def take(self) -> str:
        """Empty the box and return the message; it becomes part of the history."""
        text = self.lay_aside()
        self.input_history.add(text)
        return as_message(text)

    def lay_aside(self) -> str:
        """Empty the box and return its text as it was typed, for ``put_back_draft``."""
        text = self.text
        self.clear()
        self.say("")
        return text

    def put_back(self, text: str) -> None:
        """Put a message before whatever is in the box."""
        self.put_back_draft(as_typed(text))

    def put_back_draft(self, text: str) -> None:
        """Put text that ``lay_aside`` returned before whatever is in the box."""
        written = self.text
        self.text = f"{text}\n{written}" if written else text
        self.move_cursor(self.document.end)

    def say(self, hint: str) -> None:
        """Show a short hint on the lower edge of the box; an empty one removes it."""
        self._hint = hint
        self.border_subtitle = hint or self._count

    def unsay(self, hint: str) -> None:
        """Remove a hint if it is still shown."""
        if self._hint == hint:
            self.say("")

    def entitle(self, title: str) -> None:
        """Show a title on the upper edge of the box; an empty one removes it."""
        self.border_title = title

    def show_count(self, count: str) -> None:
        """Show the number of tokens while there is no hint."""
        self._count = count
        self.say(self._hint)

    @property
    def is_on_first_row(self) -> bool:
        """Whether the cursor is on the first row of the wrapped text."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y == 0

    @property
    def is_on_last_row(self) -> bool:
        """Whether the cursor is on the last row of the wrapped text."""
        row = self.wrapped_document.location_to_offset(self.cursor_location).y
        return row == self.wrapped_document.height - 1

    def on_text_area_changed(self) -> None:
        """Remove the hint once the user types."""
        if self.text:
            self.say("")

    def keys_of(self, action: str) -> list[str]:
        """The present keys of an action."""
        return keys_of(action, self._keymap).split(",")

    async def on_key(self, event: events.Key) -> None:
        """Handle the keys of the box, before TextArea's own handler.

        The bindings only serve the footer. Textual looks up bindings while letters that were typed
        earlier may still wait in this widget's queue.
        """
        if self.before_key(event.key):
            pass
        elif event.key in self.keys_of("send"):
            self.action_send()
        elif event.key in self.keys_of("new_line"):
            self.action_newline()
        else:
            return  # TextArea's handler is called next
        event.stop()
        event.prevent_default()

    async def on_paste(self, event: events.Paste) -> None:
        """Clean a pasted text before TextArea's own handler inserts it.

        Terminals send line ends as carriage returns; control characters must not reach the screen.
        The event is stopped, as the app would deliver it twice if another screen had passed it on.
        """
        event.stop()
        event.text = cleaned(event.text)
