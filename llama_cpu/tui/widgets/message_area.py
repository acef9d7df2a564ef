"""The message input with command completion, earlier messages and the number of tokens."""

import asyncio
import time
from collections.abc import Callable, Mapping

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import OptionList, Static, TextArea
from textual.widgets.option_list import Option

from llama_cpu.system.text import printable
from llama_cpu.tui.path_completion import (
    choices_note,
    path_begun,
    path_completions,
    shared_beginning,
)
from llama_cpu.tui.slash_commands import as_message, completions, is_complete, split_command
from llama_cpu.tui.widgets.message_input import MessageInput

COUNT_SECONDS = 0.3  # minimum time between two counts of the tokens
CLEAR_HINT = "Esc again clears the prompt"
COUNT_SHARE = 10  # minimum of the same time, as a multiple of the duration of the last count


class SlashMenu(OptionList, can_focus=False):
    """The completions of a command that is being typed."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, choices: list[tuple[str, str]]) -> None:
        """Show the choices; hide the menu if there are none."""
        self.clear_options()
        self.add_options(Option(about, id=text) for text, about in choices)
        self.display = bool(choices)
        self.highlighted = 0 if choices else None

    @property
    def choice(self) -> str:
        """The completion of the highlighted line."""
        option = self.highlighted_option
        return str(option.id) if option else ""


class PromptNote(VerticalScroll, can_focus=False):
    """What a command has to say. It is above the prompt, so that it can be seen from anywhere."""

    def compose(self) -> ComposeResult:
        yield Static("", markup=False)

    def on_mount(self) -> None:
        """Hide the note until there is one."""
        self.display = False

    def show(self, text: str, kind: str) -> None:
        """Show a text in place of the one before; ``kind`` is "note" or "problem"."""
        self.query_one(Static).update(printable(text))
        self.set_class(kind == "problem", "problem")
        self.display = bool(text)


class MessageArea(Vertical):
    """Contains the message input. ``count_tokens`` is called in a thread."""

    def __init__(self, count_tokens: Callable[[str], int], keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._count_tokens = count_tokens
        self._keymap = keymap
        self._counted = ""
        self._is_counting = False
        self._next_count = 0.0
        self._is_clearing = False  # Esc was the last key

    def compose(self) -> ComposeResult:
        menu = SlashMenu()
        menu.display = False
        yield PromptNote()
        yield menu
        yield MessageInput(self._keymap)

    def on_mount(self) -> None:
        """Handle keys before the input does, and count tokens now and then."""
        self._input.before_key = self._take_key
        self.set_interval(COUNT_SECONDS, self._count)

    @property
    def _input(self) -> MessageInput:
        return self.query_one(MessageInput)

    @property
    def _menu(self) -> SlashMenu:
        return self.query_one(SlashMenu)

    @property
    def is_completing(self) -> bool:
        """Whether the menu is open, so that Esc closes it."""
        return bool(self._menu.display)

    def tell(self, text: str, kind: str = "note") -> None:
        """Show a text above the prompt, in place of the one before; an empty one for none."""
        self.query_one(PromptNote).show(text, kind)

    def close_menu(self) -> None:
        """Close the menu until the text changes."""
        self._menu.display = False

    @on(TextArea.Changed)
    def _changed(self) -> None:
        choices = completions(self._input.text)
        if choices or self._menu.display:
            self._menu.show(choices)
        if choices:  # there is room for one of them
            self.tell("")

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._complete(str(event.option.id))

    def _complete(self, text: str) -> None:
        self._input.text = text
        self._input.move_cursor(self._input.document.end)

    # Keys

    def _take_key(self, key: str) -> bool:
        """Handle a key of the menu or of the history; return whether it was one."""
        was_clearing, self._is_clearing = self._is_clearing, False
        if self._menu.display:
            return self._take_menu_key(key)
        if key == "tab":
            self._complete_path()
            return True
        if key == "escape":
            return self._take_escape(was_clearing)
        if key == "up" and self._input.is_on_first_row:
            return self._recall(-1)
        if key == "down" and self._input.is_on_last_row:
            return self._recall(1)
        return False

    def _take_escape(self, is_second: bool) -> bool:
        """Remove the note; clear the prompt if Esc is pressed twice. Up brings the text back."""
        self.tell("")
        if is_second:
            self._input.take()
        elif self._input.text:
            self._is_clearing = True
            self._input.say(CLEAR_HINT)
        return True

    @work(group="complete", exclusive=True)
    async def _complete_path(self) -> None:
        """Complete the path of a command as far as it is certain, then offer the choices."""
        text = self._input.text
        if not (begun := path_begun(text)):
            return
        command, path = begun
        paths = await asyncio.to_thread(path_completions, path)
        found = [command + each for each in paths]
        if text != self._input.text or not found:  # the user has typed on
            return
        shared = shared_beginning(found)
        if len(found) == 1 or len(shared) > len(text):
            self._complete(shared)
            self.tell(choices_note(paths) if len(paths) > 1 else "")
        else:
            self.tell("")  # there is room for one of them
            self._menu.show([(each, printable(each.removeprefix(command))) for each in found])

    def _take_menu_key(self, key: str) -> bool:
        menu = self._menu
        if key == "up":
            menu.action_cursor_up()
        elif key == "down":
            menu.action_cursor_down()
        elif key == "escape":
            self.close_menu()
        elif key == "tab" or (key in self._input.keys_of("send") and path_begun(self._input.text)):
            self._complete(menu.choice)
        elif key in self._input.keys_of("send") and not is_complete(self._input.text):
            choice = menu.choice
            self._complete(choice)
            if not choice.endswith(" "):
                self._input.action_send()
        else:
            if key in self._input.keys_of("send"):
                self.close_menu()
            return False
        return True

    def _recall(self, by: int) -> bool:
        text = self._input.input_history.step(self._input.text, by)
        if text is not None:
            self._complete(text)
        return text is not None

    # Tokens

    def _count(self) -> None:
        text = self._input.text
        if self._is_counting or text == self._counted or time.monotonic() < self._next_count:
            return
        self._is_counting = True
        self._count_in_thread(text)

    @work(group="count", exit_on_error=False)
    async def _count_in_thread(self, text: str) -> None:
        began = time.monotonic()
        try:
            is_message = bool(text.strip()) and not split_command(text)[1]
            message = as_message(text)
            count = await asyncio.to_thread(self._count_tokens, message) if is_message else 0
        finally:
            now = time.monotonic()
            self._next_count = now + COUNT_SHARE * (now - began)
            self._is_counting, self._counted = False, text
        self._input.show_count(f"{count:,} tokens" if count > 1 else "1 token" if count else "")
