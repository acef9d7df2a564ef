"""The presets of config.toml in the app: a name for a system prompt with settings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.settings.user_config import UserConfig, save_preset
from llama_cpu.system.text import printable

_LONGEST = 60  # characters of a system prompt in a list
NO_FILE = "Presets are kept in config.toml, which --no_config leaves out."


class Presets:
    """The presets of one run; those that are saved can be used at once."""

    def __init__(self, config: UserConfig) -> None:
        self._config = config

    @property
    def all(self) -> Mapping[str, Mapping[str, Any]]:
        """The settings of each preset, by name."""
        return self._config.presets

    def get(self, name: str) -> Mapping[str, Any]:
        """The settings of a preset. Raises UserError if there is none of this name."""
        return self._config.preset(name)

    def save(self, name: str, settings: Mapping[str, Any]) -> None:
        """Write a preset to config.toml, in place of one of the same name.

        Raises UserError if that is not possible.
        """
        if self._config.path is None:
            raise UserError(NO_FILE)
        if not name:
            raise UserError("A preset needs a name: /preset save NAME.")
        if not settings:
            raise UserError(
                "All settings have their defaults, so there is nothing to save; change some first, "
                "with /system, /set or in the settings."
            )
        kept = {each: value for each, value in settings.items() if value is not None}
        save_preset(self._config.path, name, kept)
        self._config = replace(self._config, presets={**self.all, name: kept})


def summary(name: str, settings: Mapping[str, Any]) -> str:
    """One line about a preset: ``brief: temperature 0.0, "Answer in one sentence."``."""
    values = [f"{each} {value}" for each, value in settings.items() if each != "system"]
    if system := " ".join(str(settings.get("system", "")).split()):
        values.append(f"“{system[:_LONGEST]}{'…' if len(system) > _LONGEST else ''}”")
    return printable(f"{name}: {', '.join(values) or 'the defaults'}")
