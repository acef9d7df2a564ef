"""The presets of config.toml in the app: a name for a system prompt with settings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_cpu.chat.session_protocol import Session
from llama_cpu.errors import UserError
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.settings.user_config import UserConfig, save_preset
from llama_cpu.system.text import printable

_LONGEST = 60  # characters of a system prompt in a list
WITHOUT = ("default", "none")  # /preset default: the settings without a preset
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
        if name in WITHOUT:
            raise UserError(f"/preset {name} leaves a preset; choose another name.")
        if not settings:
            raise UserError(
                "All settings have their defaults, so there is nothing to save; change some first, "
                "with /system, /set or in the settings."
            )
        kept = {each: value for each, value in settings.items() if value is not None}
        save_preset(self._config.path, name, kept)
        self._config = replace(self._config, presets={**self.all, name: kept})


def without_preset(session: Session) -> Settings:
    """The settings that a preset changes: the model's own, with the template of this run."""
    return replace(session.model_settings, template=session.default_settings.template)


def choices(session: Session, presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """All settings of each preset, by name, and those without one; empty if there are none."""
    base = without_preset(session)
    named = {name: base.updated(values) for name, values in presets.items()}
    return {WITHOUT[0]: base, **named} if named else {}


def in_use(settings: Settings, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of the preset whose values the settings have, the fullest one; "" for none."""
    present = settings.as_dict()
    fitting = [
        name
        for name, values in presets.items()
        if values and all(present[each] == value for each, value in values.items())
    ]
    return max(fitting, key=lambda name: len(presets[name]), default="")


def summary(name: str, settings: Mapping[str, Any]) -> str:
    """One line about a preset: ``brief: temperature 0.0, "Answer in one sentence."``."""
    return printable(f"{name}: {values_of(settings)}")


def values_of(settings: Mapping[str, Any]) -> str:
    """The values of a preset, one after the other, with the beginning of its system prompt."""
    values = [f"{each} {value}" for each, value in settings.items() if each != "system"]
    if system := " ".join(str(settings.get("system", "")).split()):
        values.append(quoted(system))
    return ", ".join(values) or "the defaults"


def quoted(text: str) -> str:
    """The beginning of a text in quotation marks."""
    return f"“{text[:_LONGEST]}{'…' if len(text) > _LONGEST else ''}”"
