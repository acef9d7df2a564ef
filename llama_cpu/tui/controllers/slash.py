"""Runs slash commands: ``/set temperature 0.3``."""

import asyncio
import contextlib
import difflib
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cpu.chat.session_protocol import Session
from llama_cpu.errors import UserError
from llama_cpu.history.attachments import attachment
from llama_cpu.history.rows import State, StoredConversation, StoredMessage, first_words
from llama_cpu.history.transfer import as_markdown
from llama_cpu.settings.generation_settings import SETTINGS, Settings
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.safe_reading import read_small_file
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import COMMANDS, OTHER_NAMES
from llama_cpu.tui.controllers.view import ChatView
from llama_cpu.tui.presets import WITHOUT, quoted, summary, values_of, without_preset
from llama_cpu.tui.slash_commands import split_command

LONGEST_FILE = 1 << 22  # bytes; about a million tokens
NO_PRESETS = "There are no presets yet; /preset save NAME keeps the present settings as one."
FROM_NEXT = "from the next answer on"
DEFAULT = "default"  # the value that resets a setting


class SlashCommands:
    """Runs the commands that are typed into one chat screen."""

    def __init__(self, view: ChatView) -> None:
        self._view = view
        self._text = ""  # of the prompt when the command was sent
        self._kept = ""  # the part of it above the command
        self._works: dict[str, Callable[[str], Awaitable[None]]] = {
            "system": self._system,
            "set": self._set,
            "preset": self._preset,
            "save": self._save,
            "load": self._load,
            "attach": self._attach,
        }

    async def run(self, text: str) -> None:
        """Run a command and empty the input, or show what is wrong and leave the text there."""
        self._text = text
        self._kept, line = split_command(text)
        name, _, rest = line[1:].strip().partition(" ")
        name = OTHER_NAMES.get(name, name)
        self._view.tell("")
        try:
            if name not in COMMANDS:
                raise UserError(_unknown_command(name))
            if name in self._works:
                await self._works[name](rest.strip())
            else:
                self._take()
                await self._view.perform(COMMANDS[name])
        except UserError as error:
            self._view.tell(str(error), kind="problem")

    def _take(self) -> None:
        if self._view.input.text != self._text:  # the user has written on
            return
        if self._kept:
            self._view.input.lay_aside()
            self._view.input.put_back_draft(self._kept)
        else:
            self._view.input.take()

    def _tell(self, text: str) -> None:
        self._take()
        self._view.tell(text)

    async def _system(self, text: str) -> None:
        settings = self._view.session.settings
        if not text:
            shown = settings.system or "(none)"
            self._tell(f"The system prompt: {shown}\n/set system {DEFAULT} removes it.")
            return
        self._apply(replace(settings, system=text), f"{_named('system', text)} {FROM_NEXT}.")

    async def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        settings = self._view.session.settings
        if not name:
            self._tell("\n".join(_shown(each, settings) for each in SETTINGS))
            return
        if name not in SETTINGS:
            raise UserError(_unknown_setting(name))
        if not value.strip():
            self._tell(_shown(name, settings))
            return
        if value.strip() == DEFAULT:
            chosen = getattr(self._view.session.model_settings, name)
        else:
            chosen = _parsed(name, value.strip())
        self._apply(replace(settings, **{name: chosen}), f"{_named(name, chosen)} {FROM_NEXT}.")

    async def _preset(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        session, presets = self._view.session, self._view.presets
        if not name:
            listed = "\n".join(summary(each, settings) for each, settings in presets.all.items())
            self._tell(listed or NO_PRESETS)
        elif name == "save":
            await self._save_preset(rest.strip())
        elif name in WITHOUT and name not in presets.all:
            self._apply(without_preset(session), f"There is no preset {FROM_NEXT}.")
        else:
            values = presets.get(name)
            self._apply(
                without_preset(session).updated(values),
                f"The preset {name} is used {FROM_NEXT}: {values_of(values)}",
            )

    async def _save_preset(self, name: str) -> None:
        presets = self._view.presets
        done = "replaced" if name in presets.all else "saved"
        await asyncio.to_thread(presets.save, name, own_settings(self._view.session))
        self._tell(f"The preset {name} is {done}; /preset {name} uses it.")

    def _apply(self, settings: Settings, note: str) -> None:
        self._view.session.apply(settings)
        self._view.settings_changed()
        self._view.input.say("")  # the note says more
        self._tell(note)

    async def _save(self, text: str) -> None:
        path = _path(text, "/save")
        messages = self._view.session.messages
        if not any(message.role != "system" for message in messages):
            raise UserError("There is no conversation yet to save.")
        markdown = markdown_of(self._view.session)
        await asyncio.to_thread(_write_new, path, markdown)
        self._tell(f"Saved as {path}.")

    async def _load(self, text: str) -> None:
        path = _path(text, "/load")
        loaded, count = await self._read(path)
        if await self._is_wanted(path, count, "Load"):
            self._tell(f"{path.name}: {count:,} tokens.")
            self._view.input.put_back(loaded)

    async def _attach(self, text: str) -> None:
        path = _path(text, "/attach")
        loaded, count = await self._read(path)
        if count >= self._view.session.context_size:
            raise UserError(
                f"{path} has {count:,} tokens, but the context holds "
                f"{self._view.session.context_size:,}; attach a part of it."
            )
        if await self._is_wanted(path, count, "Attach"):
            file = attachment(printable(path.name), loaded, count)
            self._put(f"{self._view.attachments.add(file)}\n")

    def _put(self, line: str) -> None:
        """Put the line of a file in place of the command, or first if the user has written on."""
        self._take()
        field = self._view.input
        if self._kept and field.text == self._kept:
            field.lay_aside()
            line = f"{self._kept}\n{line}"
        field.put_back_draft(line)

    async def _read(self, path: Path) -> tuple[str, int]:
        """The text of a file and its number of tokens. Raises UserError."""

        def read() -> tuple[str, int]:
            loaded = read_text(path)
            return loaded, self._view.session.count_tokens(loaded)

        return await asyncio.to_thread(read)

    async def _is_wanted(self, path: Path, count: int, verb: str) -> bool:
        """Ask if a file takes more than a quarter of the context."""
        size = self._view.session.context_size
        if count <= size // 4:
            return True
        question = (
            f"{path.name} has {count:,} tokens, more than a quarter of the context of {size:,} "
            "tokens. Put it into the message?"
        )
        return await self._view.confirm(printable(question), yes=verb, no="Leave it")


def _unknown_command(name: str) -> str:
    close = _closest(name, COMMANDS)
    hint = f"Did you mean /{close}?" if close else "/help lists all commands."
    return f"Unknown command /{name[:40]}. {hint} A message that begins with a slash takes two."


def _unknown_setting(name: str) -> str:
    close = _closest(name, SETTINGS)
    hint = f"Did you mean {close!r}?" if close else f"The settings are {', '.join(SETTINGS)}."
    return f"Unknown setting {name[:40]!r}. {hint}"


def _closest(name: str, names: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, list(names), 1)), "")


def _parsed(name: str, text: str) -> Any:
    """The value of a setting. Raises UserError."""
    try:
        return SETTINGS[name].parsed(text)
    except ValueError as error:
        raise UserError(f"/set: {name} {error}.") from error


def _named(name: str, value: Any) -> str:
    """The beginning of a sentence about a new value: ``temperature is 0.5``."""
    text = " ".join(str(value).split())
    if value is None or not text:
        return f"{name} has its default"
    if name == "system":
        return f"The system prompt is {quoted(text)}"
    return f"{name} is {text}"


def _shown(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    shown = DEFAULT if value is None or value == "" else value
    ends = "" if SETTINGS[name].kind is str else f" ({SETTINGS[name].ends})"
    return f"{name} {shown}: {SETTINGS[name].about}{ends}"


def own_settings(session: Session) -> dict[str, Any]:
    """The settings that differ from those of the model itself."""
    defaults = session.model_settings.as_dict()
    present = session.settings.as_dict()
    return {name: value for name, value in present.items() if value != defaults[name]}


def _path(text: str, command: str) -> Path:
    """Read the name of a file, which may stand in quotes."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if not text:
        raise UserError(f"{command} needs the name of a file: {command} FILE.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~ of an unknown user
        raise UserError(f"{text[:60]} names a home folder that does not exist.") from error


def read_text(path: Path) -> str:
    """Read a text file and make it safe to show.

    Raises UserError if it is not text, empty, or larger than LONGEST_FILE.
    """
    size = _size_of_file(path)
    if size > LONGEST_FILE:
        raise UserError(f"{path} has {size:,} bytes; no model can read that much.")
    data = read_small_file(path, "the text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text; convert it, for instance with iconv."
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is a binary file, not text.")
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def _size_of_file(path: Path) -> int:
    """The size in bytes; 0 if it is unknown, so that reading says what is wrong.

    Raises UserError if it is no file.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except (OSError, ValueError):
        return 0
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a folder.")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is a device or a pipe, not a text file.")
    return found.st_size


def _write_new(path: Path, text: str) -> None:
    """Write a file into a folder that exists. Raises UserError."""
    with contextlib.suppress(OSError, ValueError):  # writing says what is wrong
        if not path.parent.exists():
            raise UserError(f"There is no folder {path.parent}.")
    write_text(path, text)


def markdown_of(session: Session) -> str:
    """Write the conversation as ``llama-cpu history export`` does."""
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
