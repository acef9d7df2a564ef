"""Names of keys, and the keys that the user gave to actions in config.toml."""

from collections.abc import Mapping
from functools import lru_cache

from textual.keys import Keys, key_to_character

from llama_cpu.errors import UserError
from llama_cpu.settings.suggestions import unknown
from llama_cpu.settings.user_config import UserConfig
from llama_cpu.tui.actions import HEADINGS, KEYED, Action
from llama_cpu.tui.textual_private import REPLACED_KEYS, key_of_character

_MODIFIERS = {"alt", "ctrl", "hyper", "meta", "shift", "super"}
# Terminals cannot tell these keys from those on the right.
_SAME_IN_TERMINALS = {
    "ctrl+m": "enter",
    "ctrl+i": "tab",
    "ctrl+h": "backspace",
    "ctrl+left_square_bracket": "escape",
    "return": "enter",
}
# Keys that every text field needs.
_FOR_WRITING = {"up", "down", "left", "right", "home", "end", "backspace", "delete", "tab"}
_FOR_WRITING |= {"space", "shift+space", "shift+tab", "ctrl+c", "ctrl+v", "ctrl+x"}


def keymap_from(config: UserConfig) -> dict[str, str]:
    """Read ``[keys]`` of config.toml: action id to keys, under Textual's names for them.

    Raises UserError for an unknown action, for a key that cannot be used, and for a key that two
    actions have.
    """
    keymap: dict[str, str] = {}
    for name, keys in config.keys.items():
        where = f"[keys] {name}"[:70]
        if name not in KEYED:
            advice = "'llama-cpu config' lists all actions."
            raise UserError(f"{config.path}: {where}: {unknown('action', name, KEYED, advice)}")
        try:
            keymap[name] = ",".join(_usable(each, KEYED[name]) for each in keys.split(","))
        except ValueError as error:
            raise config.wrong(where, f'is "{keys[:40]}": {error}.') from error
    _require_single_use(keymap, config)
    return keymap


def _require_single_use(keymap: Mapping[str, str], config: UserConfig) -> None:
    everywhere, *others = HEADINGS.values()
    for scopes in others:
        users: dict[str, str] = {}
        for name in [each.id for each in KEYED.values() if each.scope in (*everywhere, *scopes)]:
            for key in map(normalized, keys_of(name, keymap).split(",")):
                other = users.setdefault(key, name)
                if other == name:
                    continue
                changed, kept = (name, other) if name in keymap else (other, name)
                raise config.wrong(
                    f"[keys] {changed}",
                    f'is "{key}", which is also the key of {kept}; choose another for one of them.',
                )


def keys_of(action: str, keymap: Mapping[str, str]) -> str:
    """The present keys of an action, separated by commas."""
    return keymap.get(action) or KEYED[action].keys


@lru_cache(1024)
def normalized(key: str) -> str:
    """Textual's name of a key: ``ctrl+r`` for ``Ctrl+R``, ``question_mark`` for ``?``.

    Raises ValueError for anything that is not a key.
    """
    key = key.strip()
    base = key[-1:] if key.endswith("+") else key.rpartition("+")[2]
    used = {word for word in key.removesuffix(base).lower().split("+") if word}
    if used - _MODIFIERS or not base:
        raise ValueError("that is not a key")
    base = key_of_character(base) if len(base) == 1 else base.lower()
    if used:
        base = base.lower()
    if base not in _names() and _sign(base) is None:
        raise ValueError("that is not a key")
    return "+".join([*sorted(used), base])


def _usable(key: str, action: Action) -> str:
    """Normalize a key. Raises ValueError if the action cannot have it."""
    key = normalized(key)
    usual = [normalized(each) for each in action.keys.split(",")]
    if key in _SAME_IN_TERMINALS:
        raise ValueError(f"terminals send the same for it as for {_SAME_IN_TERMINALS[key]}")
    is_sign = _sign(key.removeprefix("shift+")) and not any(map(_sign, usual))
    if key not in usual and (is_sign or key in _FOR_WRITING):
        raise ValueError("that key is needed for writing; add ctrl+, or choose a key such as f9")
    return key


@lru_cache(1)
def _names() -> set[str]:
    """Names of the keys that write no character: ``f1``, ``pageup``."""
    names = {key.value.rpartition("+")[2] for key in Keys}
    return {name for name in names if name.isidentifier() and name != "ignore"}


def shown(keys: str) -> str:
    """Write keys for people: ``Ctrl+N``, ``Shift+Enter, Ctrl+J``."""
    return ", ".join("+".join(map(_word, normalized(key).split("+"))) for key in keys.split(","))


def _word(part: str) -> str:
    words = {"escape": "Esc", "pageup": "PageUp", "pagedown": "PageDown"}
    return words.get(part) or (_sign(part) or part).capitalize()


def _sign(key: str) -> str | None:
    """The printable character that a key writes; None for every other key."""
    character = key_to_character(REPLACED_KEYS.get(key, key))
    return character if character and character.isprintable() and not character.isspace() else None
