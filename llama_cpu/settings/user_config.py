"""``config.toml``: the user's own defaults for the options, keys, and folders of models."""

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.settings.generation_settings import SETTINGS, Range, require_allowed
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.paths import config_path
from llama_cpu.system.safe_reading import read_small_file, reason
from llama_cpu.weights.formats import DEFAULT, labels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FORMAT = "the settings of llama_cpu"


@dataclass(frozen=True)
class Choice:
    """One of some words, a path, a list of paths, or true or false."""

    wanted: str
    about: str
    words: tuple[str, ...] = ()
    default: Any = None

    def allows(self, value: object) -> bool:
        if self.wanted == "true or false":
            return isinstance(value, bool)
        if self.wanted == "a list of paths":
            return isinstance(value, list) and all(_is_path(each) for each in value)
        return _is_path(value) and (not self.words or value in self.words)


_PATH, _FLAG = "a path", "true or false"
DEFAULT_THEME = "textual-dark"
KV_FILE_MIB, KV_FILES_MIB, LARGEST_MIB = 512, 2048, 1 << 24
# Every entry of the file but [keys], in the order of the sample.
ENTRIES: dict[str, Range | Choice] = {
    "ckpt_dir": Choice(_PATH, "model folder or .gguf file"),
    "tokenizer_path": Choice(_PATH, "tokenizer file, or its folder"),
    "model_folders": Choice("a list of paths", "where to look for further models", default=[]),
    "precision": Choice(
        f"one of {', '.join(labels())}", "how weights are kept", labels(), DEFAULT.label
    ),
    "max_seq_len": Range(
        int, "context in tokens; default: what the model can, at most 4096", 16, 1 << 20
    ),
    "threads": Range(int, "default: the physical cores", 1, 1024),
    "mmap": Choice(
        _FLAG, "use weights where they lie in the files; default: where no other layout is faster"
    ),
    "lookup": Choice(_FLAG, "propose what followed the same tokens before; default: where it pays"),
    "draft_ckpt_dir": Choice(_PATH, "a small model that proposes tokens instead"),
    "force": Choice(_FLAG, "load even if the memory does not seem to suffice", default=False),
    **SETTINGS,
    "history": Choice(_PATH, "the database of conversations; default: in your data folder"),
    "no_history": Choice(_FLAG, "keep no conversations", default=False),
    "kv_file_mib": Range(
        int,
        f"MiB of a conversation's KV cache that are kept on the disk; default: {KV_FILE_MIB}",
        0,
        LARGEST_MIB,
    ),
    "kv_files_mib": Range(
        int,
        f"MiB of all of these files, the oldest go first; default: {KV_FILES_MIB}",
        0,
        LARGEST_MIB,
    ),
    "theme": Choice("the name of a theme", "the colours of the app", default=DEFAULT_THEME),
    "panels": Choice(_FLAG, "times and memory beside the conversation", default=True),
    "plain": Choice(_FLAG, "no app: a line in, an answer out, as in a pipe", default=False),
}


@dataclass(frozen=True)
class UserConfig:
    """What the file says. ``path`` None: no file is read, and none is written."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)  # entries that are there, paths whole
    keys: Mapping[str, str] = field(default_factory=dict)  # action: key, as yet unchecked

    def wrong(self, entry: str, problem: str) -> UserError:
        """The error that an entry of the file is not as it must be."""
        return UserError(f"{self.path}: {entry} {problem}")


def read_config(path: Path | None = None, no_config: bool = False) -> UserConfig:
    """The file's entries, each checked as far as that can be done without the app.

    ``path`` None: the file in the user's folder, which need not be there. Raises UserError, one
    sentence that names the file and the entry.
    """
    if no_config:
        return UserConfig()
    if path is None and not _is_there(config_path()):
        return UserConfig(config_path())
    path = path or config_path()
    values = _parsed(read_small_file(path, _FORMAT), path)
    config = UserConfig(path)
    keys = values.pop("keys", {})
    if not isinstance(keys, dict):
        raise config.wrong("keys", "must be a table: a line [keys], and the keys below it.")
    for action, key in keys.items():
        if not isinstance(key, str):
            raise config.wrong(f"[keys] {action}", 'must be a key in quotes, such as "ctrl+g".')
    for name, value in values.items():
        if name not in ENTRIES:
            raise config.wrong(repr(name)[:60], f"is no setting{meant(name, ENTRIES)}.")
        _require(config, name, value)
    return UserConfig(
        path, {name: _whole(value, name, path) for name, value in values.items()}, keys
    )


def _require(config: UserConfig, name: str, value: object) -> None:
    entry = ENTRIES[name]
    if isinstance(entry, Range):
        require_allowed(name, value, entry, f"{config.path}: ")
    elif not entry.allows(value):
        raise config.wrong(name, f"is {repr(value)[:60]}, but must be {entry.wanted}.")


def meant(name: str, names: Mapping[str, object]) -> str:
    """What to say of an unknown name: the known one that is most like it."""
    close = difflib.get_close_matches(name, names, 1)
    return f"; perhaps {close[0]} is meant" if close else "; 'llama-cpu config' lists all of them"


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as that.") from error
    except (ValueError, RecursionError) as error:
        problem = str(error).rstrip(".")[:200] or "too deep"
        raise UserError(f"{path} is not valid TOML: {problem}.") from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}).") from error


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _whole(value: Any, name: str, file: Path) -> Any:
    """Paths as such: ``~`` is the user's home, and others begin at the file's folder."""
    wanted = ENTRIES[name].wanted
    if wanted == _PATH:
        return _path(value, file)
    if wanted == "a list of paths":
        return [_path(each, file) for each in value]
    return value


def _path(text: str, file: Path) -> Path:
    try:
        return file.absolute().parent / Path(text).expanduser()
    except RuntimeError as error:  # ~ of somebody who is not there
        raise UserError(f"{file}: {text[:60]} names a home folder that is not there.") from error


# Writing


def with_entry(text: str, name: str, value: str | bool) -> str:
    """The same file with this entry, on its own line; all other lines stay as they are.

    Raises ValueError where that cannot be done, as the entry is written in an unusual way.
    """
    lines = text.splitlines(keepends=True)
    line = f"{name} = {_quoted(value)}"
    head = next((n for n, each in enumerate(lines) if each.lstrip().startswith("[")), len(lines))
    simple = r"""("[^"\\]*"|'[^']*'|true|false)([ \t]*(#.*)?)(\r?\n)?$"""
    for number, old in enumerate(lines[:head]):
        if match := re.match(rf"{name}\s*=\s*{simple}", old):
            lines[number] = line + match[2] + (match[4] or "")
            break
    else:
        end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
        if head and not lines[head - 1].endswith("\n"):
            lines[head - 1] += end
        gap = end if head < len(lines) else ""
        lines.insert(head, line + end + gap)
    changed = "".join(lines)
    expected = tomllib.loads(text.lstrip("\ufeff")) | {name: value}
    if tomllib.loads(changed.lstrip("\ufeff")) != expected:
        raise ValueError(f"{name} cannot be changed in this file")
    return changed


def save_entry(path: Path, name: str, value: str | bool) -> None:
    """Change one entry of the file, which is made where it is not there; it is whole at every time.

    Raises UserError where that is not possible; the file is as it was then.
    """
    path = path.resolve()  # a link stays a link
    try:
        text = read_small_file(path, _FORMAT).decode() if _is_there(path) else ""
        changed = with_entry(text, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, changed, replace=True)
    except (OSError, ValueError, UserError) as error:
        problem = str(error).rstrip(".") if isinstance(error, UserError) else reason(error)
        raise UserError(
            f"{path} could not be changed ({problem}); write {name} = {_quoted(value)} into it "
            "yourself."
        ) from error


def _quoted(value: Any) -> str:
    """A TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, (str, Path)):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        escaped = re.sub("[\0-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped)
        return f'"{escaped}"'
    return repr(value)


# The sample


def sample(
    config: UserConfig, defaults: Mapping[str, Any], keys: Mapping[str, tuple[str, str]]
) -> str:
    """All settings with their present values, as a file that may be used as it is.

    ``defaults``: the program's. ``keys``: action to its key now and what it does.
    """
    place = config.path or config_path()
    parts = [
        f"# Settings of llama_cpu; their place is {place}.\n"
        "# A line that begins with # shows what holds without it. The command line comes first,\n"
        "# then this file, then the model's generation_config.json, then the program itself."
    ]
    for name, entry in ENTRIES.items():
        limits = f" ({entry.wanted})" if isinstance(entry, Range) and entry.kind is not str else ""
        if isinstance(entry, Choice) and entry.words:
            limits = f" ({entry.wanted})"
        parts.append(f"# {entry.about}{limits}\n{_line(config, name, defaults)}")
    parts.append("[keys]\n# Several keys for one action: with commas between them.")
    for action, (key, about) in keys.items():
        mark = "" if action in config.keys else "# "
        parts.append(f"{mark}{action} = {_quoted(key)}  # {about}")
    return "\n\n".join(parts[: len(ENTRIES) + 1]) + "\n\n" + "\n".join(parts[len(ENTRIES) + 1 :])


def _line(config: UserConfig, name: str, defaults: Mapping[str, Any]) -> str:
    if name in config.values:
        return f"{name} = {_quoted(config.values[name])}"
    default = defaults.get(name)
    return f"# {name} =" if default is None else f"# {name} = {_quoted(default)}"
