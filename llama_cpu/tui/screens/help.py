"""Every key as it is now, the commands that are typed, and the few lines for the first time."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Static

from llama_cpu.tui.controllers.slash import COMMANDS
from llama_cpu.tui.keys import bindings_of, keys_of, scopes, shown

_KEYS, _ABOUT = 19, 36  # columns; the names, as wide as they are, just fit 80


class HelpScreen(ModalScreen[None]):
    """Keys and commands; the arrow keys scroll."""

    BINDINGS = [Binding("escape,enter,q", "close", "Close", id="close_help")]

    def __init__(self, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(help_text(self._keymap))

    def action_close(self) -> None:
        """Back to where one was."""
        self.dismiss()


def help_text(keymap: Mapping[str, str]) -> Content:
    """All that has a key, and what has it under another name in config.toml; then the commands."""
    parts: list[Content | str | tuple[str, str]] = []
    for scope, classes in scopes().items():
        parts.append((f"{scope}\n", "bold"))
        for binding in bindings_of(*classes):
            keys = shown(keys_of(str(binding.id), keymap))
            about = binding.tooltip or binding.description
            parts += [f"  {keys:<{_KEYS}} {about:<{_ABOUT}} ", (str(binding.id), "dim"), "\n"]
        parts.append("\n")
    parts.append(("Written into the prompt\n", "bold"))
    for command in COMMANDS.values():
        parts += [_entry(command.usage, command.about), "\n"]
    parts += [_entry("//", "begins a message with a slash"), "\n\n"]
    parts.append("The last names are for [keys] in config.toml; 'llama-cpu config' prints it.")
    return Content.assemble(*parts)


def _entry(left: str, right: str) -> str:
    return f"  {left:<{_KEYS}} {right}"


class WelcomeScreen(ModalScreen[None]):
    """What one has to know the first time, and where all else is found.

    It is in nobody's way: what is typed or pasted goes to the prompt behind it and closes it.
    """

    BINDINGS = [Binding("escape,enter", "close", "Close", id="close_welcome")]

    def __init__(
        self, keymap: Mapping[str, str], marker: Path, prompt: Callable[[], Widget]
    ) -> None:
        super().__init__()
        self._keymap = keymap
        self._marker = marker
        self._prompt = prompt

    def compose(self) -> ComposeResult:
        with Vertical(id="welcome"):
            yield Static(welcome_text(self._keymap), markup=False)
            yield Button("Begin (Enter)", variant="primary")

    def on_button_pressed(self) -> None:
        """The click for the key."""
        self.action_close()

    def on_key(self, event: events.Key) -> None:
        """The first letter of a message, and those that come before this is closed."""
        if event.is_printable:
            self._pass_on(events.Key(event.key, event.character))

    def on_paste(self, event: events.Paste) -> None:
        """A message that is written already."""
        self._pass_on(events.Paste(event.text))

    def _pass_on(self, event: events.Event) -> None:
        with contextlib.suppress(NoMatches):  # the chat is not laid out yet
            self._prompt().post_message(event)
        self.action_close()

    def action_close(self) -> None:
        """Remember that it was seen; where that is not possible it is shown again."""
        if not self.is_current:  # the second of two quick keys
            return
        with contextlib.suppress(OSError):
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        self.dismiss()


def welcome_text(keymap: Mapping[str, str]) -> str:
    """Five lines."""

    def key(action: str) -> str:
        return shown(keys_of(action, keymap).split(",")[0])

    return (
        f"Write below and press {key('send')}; {key('stop')} stops an answer and keeps it so far.\n"
        "The model runs on this computer: what you write does not leave it.\n"
        f"{key('help')} shows all keys, {key('command_palette')} all commands; a / lists those "
        "that are typed.\n"
        f"{key('settings')} changes how answers are given, the system prompt among it.\n"
        "Your own model: put it into model/, or start with --ckpt_dir PLACE."
    )
