"""How slash commands are written: telling them from messages, and completing them."""

from llama_cpu.settings.generation_settings import SETTINGS
from llama_cpu.tui.actions import COMMANDS, OTHER_NAMES


def is_command(text: str) -> bool:
    """Whether a text is a command. ``//`` begins a message."""
    return text.startswith("/") and not text.startswith("//")


def split_command(text: str) -> tuple[str, str]:
    """Split what is in the prompt into the text to keep there and the command; "": no command.

    A command is the whole text, except that ``/attach FILE`` may be the last line below others.
    """
    if is_command(text):
        return "", text
    above, line_break, last = text.rstrip("\n").rpartition("\n")
    is_last = line_break and last.partition(" ")[0] == "/attach"
    return (above, last) if is_last else (text, "")


def as_message(text: str) -> str:
    """The message that was typed, without the extra slash before a slash."""
    return text[1:] if text.startswith("//") else text


def as_typed(message: str) -> str:
    """The text to type for a message; the inverse of ``as_message``."""
    return f"/{message}" if message.startswith("/") else message


def is_complete(text: str) -> bool:
    """Whether a command is written out, so that Enter runs it."""
    name, space, rest = text[1:].partition(" ")
    if space:
        return name != "set" or not rest or rest in SETTINGS
    return name in COMMANDS or name in OTHER_NAMES


def completions(text: str) -> list[tuple[str, str]]:
    """The completions of a command that is being typed, each with a line of help."""
    if not is_command(text) or "\n" in text:
        return []
    name, space, rest = text[1:].partition(" ")
    if not space:
        commands = {each: its for each, its in COMMANDS.items() if each.startswith(name)}
        width = max((len(command.usage) for command in commands.values()), default=0)
        choices = [
            (
                f"/{each}" + (" " if command.arguments else ""),
                _line(command.usage, width, command.help),
            )
            for each, command in commands.items()
        ]
        return choices + [
            (f"/{other}", _line(f"/{other}", width, COMMANDS[each].help))
            for other, each in OTHER_NAMES.items()
            if name and other.startswith(name)
        ]
    if name == "set" and " " not in rest:
        settings = {each: its for each, its in SETTINGS.items() if each.startswith(rest)}
        width = max(map(len, settings), default=0)
        return [
            (f"/set {each} ", _line(each, width, allowed.about))
            for each, allowed in settings.items()
        ]
    return []


def _line(name: str, width: int, about: str) -> str:
    return f"{name:<{width}}  {about}"
