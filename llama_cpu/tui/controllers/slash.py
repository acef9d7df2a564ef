"""Commands that are typed into the prompt: ``/set temperature 0.3``."""

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cpu.errors import UserError
from llama_cpu.history.rows import State, StoredConversation, StoredMessage, first_words
from llama_cpu.history.transfer import as_markdown
from llama_cpu.settings.generation_settings import SETTINGS, Settings
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.safe_reading import read_small_file
from llama_cpu.system.text import printable
from llama_cpu.tui.screens.confirm import Confirm

if TYPE_CHECKING:
    from llama_cpu.chat.session import ChatSession
    from llama_cpu.tui.screens.chat import ChatScreen

LONGEST_FILE = 1 << 22  # bytes; about a million tokens
DEFAULT = "default"  # as a value: what the program has


@dataclass(frozen=True)
class Command:
    """How a command is written, and what it does. ``action``: that of a key, which is all of it."""

    usage: str
    about: str
    action: str = ""


COMMANDS = {
    "system": Command("/system TEXT", "change the system prompt; without TEXT: show it"),
    "set": Command("/set NAME VALUE", f"change a setting ({DEFAULT}: as it was); alone: show all"),
    "save": Command("/save FILE", "the conversation as Markdown"),
    "load": Command("/load FILE", "a text file into the prompt, its tokens counted"),
    "new": Command("/new", "a new conversation", "new_conversation"),
}
_NOT_BY_NAME = {"send", "new_line", "scroll_up", "scroll_down", "new_conversation"}


def all_commands() -> dict[str, Command]:
    """Those above, and the actions that have a key in the chat."""
    from llama_cpu.tui.app import ChatApp
    from llama_cpu.tui.keys import bindings_of
    from llama_cpu.tui.screens.chat import ChatScreen

    commands = dict(COMMANDS)
    for binding in bindings_of(ChatApp, ChatScreen):
        name = str(binding.id)
        if name not in _NOT_BY_NAME:
            commands[name] = Command(f"/{name}", binding.tooltip or binding.description, name)
    return dict(sorted(commands.items()))


def is_command(text: str) -> bool:
    """``//`` begins a message."""
    return text.startswith("/") and not text.startswith("//")


def as_message(text: str) -> str:
    """The message that was typed, without the slash that says it is one."""
    return text[1:] if text.startswith("//") else text


def as_typed(message: str) -> str:
    """What to type for a message: the other way round."""
    return f"/{message}" if message.startswith("/") else message


def completions(text: str) -> list[tuple[str, str]]:
    """What the text may become, and a line about it; nothing where it is no command."""
    if not is_command(text) or "\n" in text:
        return []
    name, space, rest = text[1:].partition(" ")
    if not space:
        commands = {each: its for each, its in all_commands().items() if each.startswith(name)}
        width = max((len(command.usage) for command in commands.values()), default=0)
        return [
            (
                f"/{each}" + (" " if " " in command.usage else ""),
                f"{command.usage:<{width}}  {command.about}",
            )
            for each, command in commands.items()
        ]
    if name == "set" and " " not in rest:
        settings = {each: its for each, its in SETTINGS.items() if each.startswith(rest)}
        width = max(map(len, settings), default=0)
        return [
            (f"/set {each} ", f"{each:<{width}}  {allowed.about}")
            for each, allowed in settings.items()
        ]
    return []


class SlashCommands:
    """Runs what was typed, for one chat screen."""

    def __init__(self, screen: "ChatScreen") -> None:
        self._screen = screen
        self._text = ""

    async def run(self, text: str) -> None:
        """Do it and empty the prompt, or say what is wrong and leave the text there."""
        self._text = text
        name, _, rest = text[1:].strip().partition(" ")
        commands = all_commands()
        works: dict[str, Callable[[str], Awaitable[None]]] = {
            "system": self._system,
            "set": self._set,
            "save": self._save,
            "load": self._load,
        }
        try:
            if name not in commands:
                raise UserError(_unknown(name, commands))
            if name in works:
                await works[name](rest.strip())
            else:
                self._take()
                await self._act(commands[name].action)
        except UserError as error:
            self._screen.conversation_view.add_notice(str(error), kind="problem")

    def _take(self) -> None:
        if self._screen.prompt.text == self._text:  # nothing was written since
            self._screen.prompt.take()

    def _tell(self, text: str) -> None:
        self._take()
        self._screen.conversation_view.add_notice(text)

    async def _act(self, action: str) -> None:
        from llama_cpu.tui.keys import actions, bindings_of

        screen = self._screen
        own = {str(binding.id) for binding in bindings_of(type(screen))}
        await screen.app.run_action(
            actions()[action].action, screen if action in own else screen.app
        )

    async def _system(self, text: str) -> None:
        settings = self._screen.session.settings
        if not text:
            shown = settings.system or "There is none."
            self._tell(f"The system prompt: {shown}\n/set system {DEFAULT} removes it.")
            return
        self._apply(replace(settings, system=text))

    async def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        settings = self._screen.session.settings
        if not name:
            self._tell("\n".join(_shown(each, settings) for each in SETTINGS))
            return
        if name not in SETTINGS:
            raise UserError(f"/set: {name[:40]!r} is no setting; they are {', '.join(SETTINGS)}.")
        if not value.strip():
            self._tell(_shown(name, settings))
            return
        if value.strip() == DEFAULT:
            self._apply(replace(settings, **{name: getattr(Settings(), name)}))
            return
        try:
            self._apply(replace(settings, **{name: SETTINGS[name].parsed(value.strip())}))
        except ValueError as error:
            raise UserError(f"/set: {name} {error}.") from error

    def _apply(self, settings: Settings) -> None:
        self._screen.session.apply(settings)
        self._take()
        self._screen.settings_changed()

    async def _save(self, text: str) -> None:
        path = _path(text, "/save")
        messages = self._screen.session.messages
        if not any(message.role != "system" for message in messages):
            raise UserError("There is no conversation yet to save.")
        markdown = markdown_of(self._screen.session)
        await asyncio.to_thread(write_text, path, markdown)
        self._tell(f"Saved as {path}.")

    async def _load(self, text: str) -> None:
        path = _path(text, "/load")
        session = self._screen.session

        def read() -> tuple[str, int]:
            loaded = read_text(path)
            return loaded, session.count_tokens(loaded)

        loaded, count = await asyncio.to_thread(read)
        if count > session.context_size // 4:
            question = (
                f"{path.name} has {count:,} tokens, which is more than a quarter of the "
                f"{session.context_size:,} that the context holds. Put it into the prompt?"
            )
            confirm = Confirm(printable(question), yes="Load", no="Leave it")
            if not await self._screen.app.push_screen_wait(confirm):
                return
        self._tell(f"{path.name}: {count:,} tokens.")
        self._screen.prompt.put_back(loaded)


def _unknown(name: str, commands: dict[str, Command]) -> str:
    close = difflib.get_close_matches(name, commands, 1)
    hint = f"perhaps /{close[0]} is meant" if close else "/help lists them"
    return f"/{name[:40]} is no command; {hint}. A message that begins with a slash takes two."


def _shown(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    shown = DEFAULT if value is None or value == "" else value
    ends = "" if SETTINGS[name].kind is str else f" ({SETTINGS[name].ends})"
    return f"{name} {shown}: {SETTINGS[name].about}{ends}"


def _path(text: str, command: str) -> Path:
    """Quotes around a name with spaces are not part of it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if not text:
        raise UserError(f"{command} needs the name of a file: {command} FILE.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~ of somebody who is not there
        raise UserError(f"{text[:60]} names a home folder that is not there.") from error


def read_text(path: Path) -> str:
    """A text file, made safe to show. Raises UserError where it is none, or far too large."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        size = 0  # the next line says what is wrong
    if size > LONGEST_FILE:
        raise UserError(f"{path} has {size:,} bytes; no model reads that much.")
    data = read_small_file(path, "the text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text; convert it, for instance with iconv."
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is not text but something binary.")
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def markdown_of(session: "ChatSession") -> str:
    """The conversation as ``llama-cpu history export`` would write it."""
    now, model = time.time(), session.model_name
    messages = session.messages
    first = next((each.text for each in messages if each.role == "user"), "")
    conversation = StoredConversation(
        0, first_words(first), False, model, {}, now, now, None, len(messages)
    )
    stored = [
        StoredMessage(0, 0, None, each.role, each.text, State.COMPLETE, model, now, (), (), ())
        for each in messages
    ]
    return as_markdown(conversation, stored)
