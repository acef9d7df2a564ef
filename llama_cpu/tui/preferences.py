"""The app's settings from config.toml, checked before the app starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from textual.theme import BUILTIN_THEMES

from llama_cpu.settings.user_config import DEFAULT_THEME, UserConfig, save_entry
from llama_cpu.tui.user_keys import keymap_from


@dataclass(frozen=True)
class Preferences:
    """The user's own keys, and the appearance of the app."""

    config: UserConfig = field(default_factory=UserConfig)
    keymap: Mapping[str, str] = field(default_factory=dict)
    theme: str = DEFAULT_THEME
    panels: bool = True  # shown beside the conversation if there is room
    welcome_marker: Path | None = None  # exists after the welcome screen; None: never show it

    def save(self, name: str) -> None:
        """Write ``theme`` or ``panels`` to config.toml. Raises UserError if that fails."""
        if self.config.path:
            save_entry(self.config.path, name, getattr(self, name))


def preferences_from(config: UserConfig) -> Preferences:
    """Read the preferences. Raises UserError for a key or a theme that cannot be used."""
    theme = config.values.get("theme", Preferences.theme)
    if theme not in BUILTIN_THEMES:
        names = ", ".join(sorted(BUILTIN_THEMES))
        raise config.wrong("theme", f"is {theme[:40]!r}, but must be one of {names}.")
    return Preferences(config, keymap_from(config), theme, config.values.get("panels", True))
