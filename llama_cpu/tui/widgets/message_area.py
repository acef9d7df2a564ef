"""The message input with command completion, earlier messages and the number of tokens."""

import asyncio
import time
from collections.abc import Callable, Mapping

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

from llama_cpu.tui.slash_commands import as_message, completions, is_command, is_complete
from llama_cpu.tui.widgets.message_input import MessageInput

COUNT_SECONDS = 0.3  # minimum time between two counts of the tokens
COUNT_SHARE = 10  # minimum of the same time, as a multiple of the duration of the last count


class SlashMenu(OptionList, can_focus=False):
    """The completions of a command that is being typed."""

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


class MessageArea(Vertical):
    """Contains the message input. ``count_tokens`` is called in a thread."""

    def __init__(self, count_tokens: Callable[[str], int], keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._count_tokens = count_tokens
        self._keymap = keymap
        self._counted = ""
        self._is_counting = False
        self._next_count = 0.0

    def compose(self) -> ComposeResult:
        menu = SlashMenu()
        menu.display = False
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

    def close_menu(self) -> None:
        """Close the menu until the text changes."""
        self._menu.display = False

    @on(TextArea.Changed)
    def _changed(self) -> None:
        choices = completions(self._input.text)
        if choices or self._menu.display:
            self._menu.show(choices)

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
        if self._menu.display:
            return self._take_menu_key(key)
        if key == "up" and self._input.is_on_first_row:
            return self._recall(-1)
        if key == "down" and self._input.is_on_last_row:
            return self._recall(1)
        return False

    def _take_menu_key(self, key: str) -> bool:
        menu = self._menu
        if key == "up":
            menu.action_cursor_up()
        elif key == "down":
            menu.action_cursor_down()
        elif key == "escape":
            self.close_menu()
        elif key == "tab":
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
            is_message = bool(text.strip()) and not is_command(text)
            message = as_message(text)
            count = await asyncio.to_thread(self._count_tokens, message) if is_message else 0
        finally:
            now = time.monotonic()
            self._next_count = now + COUNT_SHARE * (now - began)
            self._is_counting, self._counted = False, text
        self._input.show_count(f"{count:,} tokens" if count > 1 else "1 token" if count else "")
