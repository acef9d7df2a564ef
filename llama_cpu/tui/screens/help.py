"""The help: every key and slash command; and the welcome screen of the first start."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Static

from llama_cpu.tui.actions import COMMANDS, HEADINGS, KEYED, OTHER_NAMES, Scope, bindings
from llama_cpu.tui.user_keys import keys_of, shown

_KEYS, _ABOUT = 19, 36  # columns; with the names they just fit 80


class HelpScreen(ModalScreen[None]):
    """Keys and commands; the arrow keys scroll."""

    BINDINGS = bindings(Scope.HELP)

    def __init__(self, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(help_text(self._keymap))

    def action_close(self) -> None:
        """Close the help."""
        self.dismiss()


def help_text(keymap: Mapping[str, str]) -> Content:
    """List every action with its present keys and its name in config.toml, then the commands."""
    parts: list[Content | str | tuple[str, str]] = []
    for heading, scopes in HEADINGS.items():
        parts.append((f"{heading}\n", "bold"))
        for action in [each for each in KEYED.values() if each.scope in scopes]:
            keys = shown(keys_of(action.id, keymap))
            if len(keys) > _KEYS:
                parts.append(f"  {keys}\n")
                keys = ""
            parts += [f"  {keys:<{_KEYS}} {action.help:<{_ABOUT}} ", (action.id, "dim"), "\n"]
        parts.append("\n")
    parts.append(("Slash commands\n", "bold"))
    for command in COMMANDS.values():
        parts += [_entry(command.usage, command.help), "\n"]
    others = ", ".join(f"/{other} is /{each}" for other, each in OTHER_NAMES.items())
    parts += [f"  {others}\n"]
    parts += [_entry("//", "begins a message with a slash"), "\n\n"]
    parts.append("The dimmed names are for [keys] in config.toml; 'llama-cpu config' prints it.")
    return Content.assemble(*parts)


def _entry(left: str, right: str) -> str:
    return f"  {left:<{_KEYS}} {right}"


class WelcomeScreen(ModalScreen[None]):
    """Tells a new user the most important keys, and where to find the rest.

    Typed or pasted text closes this screen and goes to the input behind it.
    """

    BINDINGS = bindings(Scope.WELCOME)

    def __init__(
        self, keymap: Mapping[str, str], marker: Path, input: Callable[[], Widget]
    ) -> None:
        """``marker``: the file that says that this screen was seen."""
        super().__init__()
        self._keymap = keymap
        self._marker = marker
        self._input = input

    def compose(self) -> ComposeResult:
        with Vertical(id="welcome"):
            yield Static(welcome_text(self._keymap), markup=False)
            yield Button("Begin (Enter)", variant="primary")

    def on_button_pressed(self) -> None:
        """Close the screen on a click."""
        self.action_close()

    def on_key(self, event: events.Key) -> None:
        """Pass on the letters that are typed before this screen is closed."""
        if event.is_printable:
            self._pass_on(events.Key(event.key, event.character))

    def on_paste(self, event: events.Paste) -> None:
        """Pass on a pasted message."""
        self._pass_on(events.Paste(event.text))

    def _pass_on(self, event: events.Event) -> None:
        with contextlib.suppress(NoMatches):  # the chat is not laid out yet
            self._input().post_message(event)
        self.action_close()

    def action_close(self) -> None:
        """Remember that the screen was seen; if that fails, it is shown again next time."""
        if not self.is_current:  # the second of two quick keys
            return
        with contextlib.suppress(OSError):
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        self.dismiss()


def welcome_text(keymap: Mapping[str, str]) -> str:
    """Write the five lines of the welcome screen."""

    def key(action: str) -> str:
        return shown(keys_of(action, keymap).split(",")[0])

    return (
        f"Write below and press {key('send')}; {key('stop')} stops an answer and keeps it so far.\n"
        "The model runs on this computer: what you write does not leave it.\n"
        f"{key('help')} shows all keys, {key('command_palette')} all commands; / lists the slash "
        "commands.\n"
        f"{key('settings')} changes the system prompt, the temperature and so on.\n"
        f"Better models: {key('models')} lists some; python -m llama_cpu pull ORG/REPO fetches one."
    )
