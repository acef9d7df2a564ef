"""The prompt with what helps at writing: completion of commands, earlier texts, tokens counted."""

import asyncio
import time
from collections.abc import Callable

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

from llama_cpu.settings.generation_settings import SETTINGS
from llama_cpu.tui.controllers.slash import all_commands, as_message, completions, is_command
from llama_cpu.tui.widgets.message_input import MessageInput

COUNT_SECONDS = 0.3  # between two counts, at the least
COUNT_SHARE = 10  # and so many times as long as the last one took


class SlashMenu(OptionList, can_focus=False):
    """What a command that is being typed may become."""

    def show(self, choices: list[tuple[str, str]]) -> None:
        """Show these, or nothing where there are none."""
        self.clear_options()
        self.add_options(Option(about, id=text) for text, about in choices)
        self.display = bool(choices)
        self.highlighted = 0 if choices else None

    @property
    def choice(self) -> str:
        """The text that the highlighted line stands for."""
        option = self.highlighted_option
        return str(option.id) if option else ""


class MessageArea(Vertical):
    """Holds the prompt. ``count_tokens`` is called in a thread of its own."""

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        super().__init__()
        self._count_tokens = count_tokens
        self._counted = ""
        self._is_counting = False
        self._next_count = 0.0

    def compose(self) -> ComposeResult:
        menu = SlashMenu()
        menu.display = False
        yield menu
        yield MessageInput()

    def on_mount(self) -> None:
        """Look at each key first, and at the text now and then."""
        self._prompt.before_key = self._take_key
        self.set_interval(COUNT_SECONDS, self._count)

    @property
    def _prompt(self) -> MessageInput:
        return self.query_one(MessageInput)

    @property
    def _menu(self) -> SlashMenu:
        return self.query_one(SlashMenu)

    @property
    def is_completing(self) -> bool:
        """Whether the menu is open, so that Esc closes it."""
        return bool(self._menu.display)

    def close_menu(self) -> None:
        """Until the text changes."""
        self._menu.display = False

    @on(TextArea.Changed)
    def _changed(self) -> None:
        choices = completions(self._prompt.text)
        if choices or self._menu.display:
            self._menu.show(choices)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._complete(str(event.option.id))

    def _complete(self, text: str) -> None:
        self._prompt.text = text
        self._prompt.move_cursor(self._prompt.document.end)

    # Keys

    def _take_key(self, key: str) -> bool:
        """Whether the key was meant for the menu or the memory."""
        if self._menu.display:
            return self._take_menu_key(key)
        if key == "up" and self._prompt.is_on_first_row:
            return self._recall(-1)
        if key == "down" and self._prompt.is_on_last_row:
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
        elif key in self._prompt.keys_of("send") and not _is_whole(self._prompt.text):
            choice = menu.choice
            self._complete(choice)
            if not choice.endswith(" "):
                self._prompt.action_send()
        else:
            if key in self._prompt.keys_of("send"):
                self.close_menu()
            return False
        return True

    def _recall(self, by: int) -> bool:
        text = self._prompt.memory.step(self._prompt.text, by)
        if text is not None:
            self._complete(text)
        return text is not None

    # Tokens

    def _count(self) -> None:
        text = self._prompt.text
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
        self._prompt.show_count(f"{count:,} tokens" if count > 1 else "1 token" if count else "")


def _is_whole(text: str) -> bool:
    """Whether Enter means this command and not the highlighted one."""
    name, space, rest = text[1:].partition(" ")
    if space:
        return name != "set" or not rest or rest in SETTINGS
    return name in all_commands()
