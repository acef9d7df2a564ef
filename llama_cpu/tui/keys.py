"""The keys of the app: its actions by name, and the keys that the user gave them instead."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from textual.binding import Binding
from textual.keys import REPLACED_KEYS, Keys, _character_to_key, key_to_character

from llama_cpu.errors import UserError
from llama_cpu.settings.suggestions import unknown
from llama_cpu.settings.user_config import UserConfig

_MODIFIERS = {"alt", "ctrl", "hyper", "meta", "shift", "super"}
_SAME_IN_TERMINALS = {
    "ctrl+m": "enter",
    "ctrl+i": "tab",
    "ctrl+h": "backspace",
    "ctrl+left_square_bracket": "escape",
    "return": "enter",
}
_FOR_WRITING = {"up", "down", "left", "right", "home", "end", "backspace", "delete", "tab"}
_FOR_WRITING |= {"space", "shift+space", "shift+tab", "ctrl+c", "ctrl+v", "ctrl+x"}


def key(
    key: str, action: str, footer: str = "", *, about: str, id: str = "", key_display: str = ""
) -> Binding:
    """A key of the chat. It comes before what the prompt does with it; ``footer``: shown there."""
    return Binding(
        key,
        action,
        footer or about,
        show=bool(footer),
        key_display=key_display or None,
        priority=True,
        tooltip=about,
        id=id or action,
    )


def scopes() -> dict[str, tuple[type, ...]]:
    """What the keys act on, and the classes that have them; the app's own act everywhere."""
    from llama_cpu.tui.app import ChatApp
    from llama_cpu.tui.controllers.cache_work import LeavingScreen
    from llama_cpu.tui.screens.ask import Ask
    from llama_cpu.tui.screens.chat import ChatScreen
    from llama_cpu.tui.screens.confirm import Confirm
    from llama_cpu.tui.screens.figures import FiguresScreen
    from llama_cpu.tui.screens.help import HelpScreen, WelcomeScreen
    from llama_cpu.tui.screens.lens import LensScreen
    from llama_cpu.tui.screens.loading import LoadingScreen
    from llama_cpu.tui.screens.models import ModelScreen
    from llama_cpu.tui.screens.settings import SettingsScreen
    from llama_cpu.tui.widgets.find_bar import FindBar
    from llama_cpu.tui.widgets.lens_text import LensText
    from llama_cpu.tui.widgets.message_input import MessageInput
    from llama_cpu.tui.widgets.message_views import UserMessage
    from llama_cpu.tui.widgets.sidebar import Sidebar

    return {
        "Everywhere": (ChatApp,),
        "In the chat": (MessageInput, ChatScreen),
        "At a message of yours": (UserMessage,),
        "In the list": (Sidebar,),
        "In the search": (FindBar,),
        "In the token lens": (LensText, LensScreen),
        "In the settings": (SettingsScreen,),
        "In the table of models": (ModelScreen,),
        "In the figures": (FiguresScreen,),
        "In this help": (HelpScreen,),
        "At the first start": (WelcomeScreen,),
        "While a model is loaded": (LoadingScreen,),
        "While the KV cache is kept": (LeavingScreen,),
        "Where a question is asked": (Confirm,),
        "Where a line is asked for": (Ask,),
    }


def bindings_of(*classes: type) -> Iterator[Binding]:
    """Their own, not those that Textual's widgets have."""
    for each in classes:
        for binding in vars(each).get("BINDINGS", ()):
            assert isinstance(binding, Binding) and binding.id, f"a key of {each} has no name"
            yield binding


def actions() -> dict[str, Binding]:
    """Every action that has a key, by its name in the file."""
    every = (each for classes in scopes().values() for each in bindings_of(*classes))
    return {str(binding.id): binding for binding in every}


def keymap_from(config: UserConfig) -> dict[str, str]:
    """Action to keys, as Textual names them, of those in the file.

    Raises UserError for an action that is not known, a key that cannot be used, or one key for
    two actions.
    """
    known = actions()
    keymap: dict[str, str] = {}
    for name, keys in config.keys.items():
        where = f"[keys] {name}"[:70]
        if name not in known:
            advice = "'llama-cpu config' lists all actions."
            raise UserError(f"{config.path}: {where}: {unknown('action', name, known, advice)}")
        try:
            keymap[name] = ",".join(_usable(each, known[name]) for each in keys.split(","))
        except ValueError as error:
            raise config.wrong(where, f'is "{keys[:40]}": {error}.') from error
    _require_single_use(keymap, config)
    return keymap


def _require_single_use(keymap: Mapping[str, str], config: UserConfig) -> None:
    everywhere, *others = scopes().values()
    for classes in others:
        users: dict[str, str] = {}
        for binding in bindings_of(*everywhere, *classes):
            name = str(binding.id)
            for key in map(normalized, keys_of(name, keymap).split(",")):
                other = users.setdefault(key, name)
                if other == name:
                    continue
                changed, kept = (name, other) if name in keymap else (other, name)
                raise config.wrong(
                    f"[keys] {changed}",
                    f'is "{key}", which is the key of {kept}, too; give one of them another.',
                )


def keys_of(action: str, keymap: Mapping[str, str]) -> str:
    """The keys of an action now, with commas between them."""
    return keymap.get(action) or actions()[action].key


@lru_cache(1024)
def normalized(key: str) -> str:
    """A key as Textual names it: ``Ctrl+R`` is ``ctrl+r``, ``?`` is ``question_mark``.

    Raises ValueError for what is no key.
    """
    key = key.strip()
    base = key[-1:] if key.endswith("+") else key.rpartition("+")[2]
    used = {word for word in key.removesuffix(base).lower().split("+") if word}
    if used - _MODIFIERS or not base:
        raise ValueError("that is no key")
    base = _character_to_key(base) if len(base) == 1 else base.lower()
    if used:
        base = base.lower()
    if base not in _names() and _sign(base) is None:
        raise ValueError("that is no key")
    return "+".join([*sorted(used), base])


def _usable(key: str, action: Binding) -> str:
    """The key, normalized. Raises ValueError where it cannot be given to the action."""
    key = normalized(key)
    usual = [normalized(each) for each in action.key.split(",")]
    if key in _SAME_IN_TERMINALS:
        raise ValueError(f"a terminal sends the same for it as for {_SAME_IN_TERMINALS[key]}")
    is_sign = _sign(key.removeprefix("shift+")) and not any(map(_sign, usual))
    if key not in usual and (is_sign or key in _FOR_WRITING):
        raise ValueError("that key is needed for writing; add ctrl+ or take one such as f9")
    return key


@lru_cache(1)
def _names() -> set[str]:
    """Of keys that are not characters: ``f1``, ``pageup``."""
    names = {key.value.rpartition("+")[2] for key in Keys}
    return {name for name in names if name.isidentifier() and name != "ignore"}


def shown(keys: str) -> str:
    """Keys as people write them: ``Ctrl+N``, ``Shift+Enter, Ctrl+J``."""
    return ", ".join("+".join(map(_word, normalized(key).split("+"))) for key in keys.split(","))


def _word(part: str) -> str:
    words = {"escape": "Esc", "pageup": "PageUp", "pagedown": "PageDown"}
    return words.get(part) or (_sign(part) or part).capitalize()


def _sign(key: str) -> str | None:
    """The character that a key writes; None for all others."""
    character = key_to_character(REPLACED_KEYS.get(key, key))
    return character if character and character.isprintable() and not character.isspace() else None
