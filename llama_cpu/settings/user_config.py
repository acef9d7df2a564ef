"""``config.toml``: the user's defaults for options, keys and folders of models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.settings.generation_settings import SETTINGS, Range, require_allowed
from llama_cpu.settings.suggestions import unknown
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.paths import config_path, history_path, short_path
from llama_cpu.system.safe_reading import read_small_file, reason
from llama_cpu.weights.formats import labels

_FORMAT = "the settings of llama_cpu"


@dataclass(frozen=True)
class Choice:
    """An entry whose value is a word from a list, a path, a list of paths, or true or false."""

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
# Every entry of the file except [keys], in the order that ``sample`` prints them.
ENTRIES: dict[str, Range | Choice] = {
    "ckpt_dir": Choice(_PATH, "model folder or .gguf file"),
    "model": Choice(
        "the name of a model on Hugging Face's hub", "ORG/REPO:QUANT to use instead of ckpt_dir"
    ),
    "tokenizer_path": Choice(_PATH, "tokenizer file, or the folder that contains it"),
    "model_folders": Choice("a list of paths", "folders to search for more models", default=[]),
    "precision": Choice(
        f"one of {', '.join(labels())}",
        "weight format; default: file if it is quantized, else float32",
        labels(),
    ),
    "max_seq_len": Range(
        int, "context length in tokens; default: the model's own, at most 4096", 16, 1 << 20
    ),
    "threads": Range(int, "number of threads; default: the physical cores", 1, 1024),
    "mmap": Choice(
        _FLAG, "memory-map weights; default: unless this CPU runs faster on a repacked copy"
    ),
    "kv_int8": Choice(_FLAG, "keep the KV cache in 8 bits", default=False),
    "lookup": Choice(_FLAG, "prompt-lookup speculative decoding; default: on where it is cheap"),
    "draft_ckpt_dir": Choice(_PATH, "draft model for speculative decoding"),
    "force": Choice(_FLAG, "load the model even if memory seems too small", default=False),
    **SETTINGS,
    "preset": Choice("the name of a preset", "preset of new conversations; see the end"),
    "history": Choice(_PATH, f"conversation database; default: {short_path(history_path())}"),
    "no_history": Choice(_FLAG, "do not save conversations", default=False),
    "kv_file_mib": Range(
        int,
        f"maximum MiB of one conversation's KV cache file; default: {KV_FILE_MIB}",
        0,
        LARGEST_MIB,
    ),
    "kv_files_mib": Range(
        int,
        f"maximum MiB of all KV cache files; default: {KV_FILES_MIB}",
        0,
        LARGEST_MIB,
    ),
    "theme": Choice("the name of a theme", "colors of the app", default=DEFAULT_THEME),
    "panels": Choice(_FLAG, "show times and memory beside the conversation", default=True),
    "plain": Choice(_FLAG, "chat line by line without the app, as in a pipe", default=False),
}


@dataclass(frozen=True)
class UserConfig:
    """The contents of the file. ``path`` None: no file is read or written."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)  # paths are absolute
    keys: Mapping[str, str] = field(default_factory=dict)  # action: key; not checked yet
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings by name

    def wrong(self, entry: str, problem: str) -> UserError:
        """An error about an entry of the file."""
        return UserError(f"{self.path}: {entry} {problem}")

    def preset(self, name: str) -> Mapping[str, Any]:
        """The settings of a preset. Raises UserError if there is none of this name."""
        if name not in self.presets:
            known = f"The presets are {', '.join(self.presets)}."
            none = f"There are no presets yet; write a table [presets.NAME] into {self.path}."
            raise UserError(unknown("preset", name, self.presets, known if self.presets else none))
        return self.presets[name]


def read_config(path: Path | None = None, no_config: bool = False) -> UserConfig:
    """Read the file and check its entries, except those that only the app can check.

    ``path`` None: the file in the user's configuration folder, which need not exist. Raises
    UserError, one sentence that names the file and the entry.
    """
    if no_config:
        return UserConfig()
    if path is None and not _is_there(config_path()):
        return UserConfig(config_path())
    path = path or config_path()
    if not _is_there(path):
        raise UserError(
            f"{path} does not exist; name another file with --config, or leave --config out "
            "('llama-cpu config' prints a file to begin with)."
        )
    values = _parsed(read_small_file(path, _FORMAT), path)
    config = UserConfig(path)
    keys = values.pop("keys", {})
    if not isinstance(keys, dict):
        raise config.wrong("keys", "must be a table: a line [keys], and the keys below it.")
    for action, key in keys.items():
        if not isinstance(key, str):
            raise config.wrong(f"[keys] {action}", 'must be a key in quotes, such as "ctrl+g".')
    presets = _presets(values.pop("presets", {}), config)
    for name, value in values.items():
        if name not in ENTRIES:
            advice = "'llama-cpu config' lists all settings."
            raise UserError(f"{path}: {unknown('setting', name, ENTRIES, advice)}")
        _require(config, name, value)
    return UserConfig(
        path, {name: _whole(value, name, path) for name, value in values.items()}, keys, presets
    )


def _presets(tables: object, config: UserConfig) -> dict[str, dict[str, Any]]:
    """Check the tables below [presets]: settings of a conversation, by the presets' names."""
    if not isinstance(tables, dict):
        raise config.wrong("presets", "must be tables: a line [presets.NAME], and settings below.")
    for preset, settings in tables.items():
        require_preset_name(preset, f"{config.path}: ")
        if not isinstance(settings, dict):
            raise config.wrong(f"presets.{preset}", f"must be a table: a line [presets.{preset}].")
        for name, value in settings.items():
            where = f"{config.path}: [presets.{preset}] "
            if name not in SETTINGS:
                advice = f"A preset may have {', '.join(SETTINGS)}."
                raise UserError(where + unknown("setting", name, SETTINGS, advice))
            require_allowed(name, value, SETTINGS[name], where)
    return tables


def require_preset_name(name: str, where: str = "") -> None:
    """Raise UserError unless the name can be typed as one word and written as a table's name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise UserError(
            f"{where}the preset's name {repr(name)[:60]} must be one word of letters, digits, "
            "hyphens and underscores."
        )


def _require(config: UserConfig, name: str, value: object) -> None:
    entry = ENTRIES[name]
    if isinstance(entry, Range):
        require_allowed(name, value, entry, f"{config.path}: ")
    elif not entry.allows(value):
        raise config.wrong(name, f"is {repr(value)[:60]}, but must be {entry.wanted}.")


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    import tomlkit  # here and below: most users have no file, and the start is to be quick
    from tomlkit.exceptions import TOMLKitError

    try:
        values: dict[str, Any] = tomlkit.parse(data.decode("utf-8-sig")).unwrap()
        return values
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it in that encoding.") from error
    except (ValueError, TOMLKitError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        problem = "it is nested too deeply" if deep else str(error).rstrip(".")[:200]
        raise UserError(f"{path} is not valid TOML: {problem}.") from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}).") from error


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _whole(value: Any, name: str, file: Path) -> Any:
    """Make paths absolute: ``~`` is the user's home, others are relative to the file's folder."""
    wanted = ENTRIES[name].wanted
    if wanted == _PATH:
        return _path(value, file)
    if wanted == "a list of paths":
        return [_path(each, file) for each in value]
    return value


def _path(text: str, file: Path) -> Path:
    try:
        return file.absolute().parent / Path(text).expanduser()
    except RuntimeError as error:  # ~ with an unknown user name
        raise UserError(f"{file}: {text[:60]} names a home folder that does not exist.") from error


# Writing


def with_entry(text: str, name: str, value: Any, table: str = "") -> str:
    """The text of the file with this entry set; comments, order and other lines stay.

    ``table``: the name of the table that has the entry; "": none. Raises ValueError if the text is
    not valid TOML.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    text, byte_order_mark = text.removeprefix("\ufeff"), text[: text.startswith("\ufeff")]
    try:
        document = tomlkit.parse(text)
        expected = document.unwrap()
        if table:
            expected[table] = expected.get(table, {}) | {name: value}
            document.setdefault(table, tomlkit.table(is_super_table=True))[name] = value
        else:
            expected[name] = value
            document[name] = value
        changed = tomlkit.dumps(document)
        if "\r\n" in text.partition("\n")[0] + "\n":
            changed = re.sub(r"(?<!\r)\n", "\r\n", changed)  # tomlkit adds lines with \n
        if tomlkit.parse(changed).unwrap() != expected:
            raise ValueError(f"{name} cannot be changed in this file")
    except (TOMLKitError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return byte_order_mark + changed


def save_preset(path: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Write a preset to the file, as ``save_entry`` does."""
    require_preset_name(name)
    save_entry(path, name, dict(settings), "presets")


def save_entry(path: Path, name: str, value: Any, table: str = "") -> None:
    """Change one entry of the file atomically; the file is created if it does not exist.

    ``table``: the name of the table that has the entry; "": none.

    Raises UserError if that is not possible; the file is unchanged then.
    """
    path = path.resolve()  # so that a symbolic link remains one
    try:
        text = read_small_file(path, _FORMAT).decode() if _is_there(path) else ""
        changed = with_entry(text, name, value, table)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, changed, replace=True)
    except (OSError, ValueError, UserError) as error:
        problem = str(error).rstrip(".") if isinstance(error, UserError) else reason(error)
        raise UserError(
            f"{path} could not be changed ({problem}); write {_advised(name, value, table)} into "
            "it yourself."
        ) from error


def _advised(name: str, value: Any, table: str) -> str:
    """What the user may write instead: ``theme = "nord"``, or a table's name."""
    return f"[{table}.{name}] and the settings" if table else f"{name} = {_quoted(value)}"


def _quoted(value: Any) -> str:
    """The value in TOML's notation, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    import tomlkit

    return tomlkit.item(str(value) if isinstance(value, Path) else value).as_string()


# The sample


def sample(
    config: UserConfig, defaults: Mapping[str, Any], keys: Mapping[str, tuple[str, str]]
) -> str:
    """All settings with their present values, as text that may be used as config.toml.

    ``defaults``: the program's defaults. ``keys``: for each action, its present key and what it
    does.
    """
    place = config.path or config_path()
    parts = [
        f"# Settings of llama_cpu; this file belongs at {place}.\n"
        "# A line that begins with # shows a default. The command line takes precedence over this\n"
        "# file, this file over what the model recommends, and that over the defaults."
    ]
    for name, entry in ENTRIES.items():
        limits = f" ({entry.wanted})" if isinstance(entry, Range) and entry.kind is not str else ""
        if isinstance(entry, Choice) and entry.words:
            limits = f" ({entry.wanted})"
        parts.append(f"# {entry.about}{limits}\n{_line(config, name, defaults)}")
    parts.append("[keys]\n# To give an action several keys, separate them with commas.")
    for action, (key, about) in keys.items():
        mark = "" if action in config.keys else "# "
        parts.append(f"{mark}{action} = {_quoted(key)}  # {about}")
    text = "\n\n".join(parts[: len(ENTRIES) + 1]) + "\n\n" + "\n".join(parts[len(ENTRIES) + 1 :])
    return text + "\n\n" + _sample_presets(config)


def _sample_presets(config: UserConfig) -> str:
    """The presets, after what they are."""
    about = (
        "# A preset is a name for settings of a conversation, which --preset NAME, /preset NAME\n"
        "# or F2 chooses. A line [presets.NAME] begins one; its settings stand below."
    )
    return "\n".join([about, *_tables(config.presets)]) + "\n"


def _tables(presets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for preset, settings in presets.items():
        lines.append(f"[presets.{preset}]")
        lines += [f"{name} = {_quoted(value)}" for name, value in settings.items()]
    return lines


def _line(config: UserConfig, name: str, defaults: Mapping[str, Any]) -> str:
    if name in config.values:
        return f"{name} = {_quoted(config.values[name])}"
    default = defaults.get(name)
    return f"# {name} =" if default is None else f"# {name} = {_quoted(default)}"
