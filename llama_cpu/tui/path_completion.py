"""Completes the paths of ``/load``, ``/save`` and ``/attach``."""

import os
from pathlib import Path

from llama_cpu.tui.slash_commands import split_command

COMMANDS_WITH_PATHS = ("load", "save", "attach")
MOST_NAMED = 8  # paths in a note
MOST = 200  # entries of a folder that are offered
_MOST_READ = 20_000  # entries of a folder that are looked at


def path_begun(text: str) -> tuple[str, str] | None:
    """Split ``/load ~/no`` into the command with its space and the path; None for other texts.

    The first part has the text above the command, too.
    """
    line = split_command(text)[1]
    command, space, path = line.partition(" ")
    if space and "\n" not in line and command[1:] in COMMANDS_WITH_PATHS and text.endswith(line):
        return text.removesuffix(line) + command + space, path.lstrip()
    return None


def path_completions(begun: str) -> list[str]:
    """The paths that begin like this, folders with a slash at the end; reads the folder.

    A leading quote is dropped, as names may contain spaces without it. Hidden files are offered
    only after their dot, and names that cannot be typed are left out.
    """
    begun = begun.lstrip("\"'")
    if begun == "~":
        return ["~/"]
    folder, start = os.path.split(begun)
    try:
        place = Path(folder or ".").expanduser()
        with os.scandir(place) as entries:
            read = [entry for entry, _ in zip(entries, range(_MOST_READ), strict=False)]
    except (OSError, ValueError, RuntimeError):  # there is no such folder, or no such home
        return []
    before = f"{folder.rstrip('/')}/" if folder else ""
    found = []
    for entry in read:
        name = entry.name
        if name.startswith(start) and name.isprintable() and (start or name[0] != "."):
            found.append(before + name + ("/" if _is_folder(entry) else ""))
    return sorted(found)[:MOST]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def shared_beginning(paths: list[str]) -> str:
    """The letters that all paths begin with."""
    first, last = min(paths), max(paths)
    same = (one == other for one, other in zip(first, last, strict=False))
    return first[: next((n for n, is_same in enumerate(same) if not is_same), len(first))]


def choices_note(paths: list[str]) -> str:
    """The names of the first few paths, for a note."""
    names = [path[path.rfind("/", 0, -1) + 1 :] for path in paths[:MOST_NAMED]]
    more = f" and {len(paths) - MOST_NAMED:,} more" if len(paths) > MOST_NAMED else ""
    return f"{', '.join(names)}{more}; Tab again lists them."
