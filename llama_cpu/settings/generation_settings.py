"""The settings of a conversation: each with its type, its range and a line of help."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.system.text import is_unicode


@dataclass(frozen=True)
class Range:
    """The values that a setting may have. ``kind``: float, int or str; ``optional``: also None."""

    kind: type
    about: str
    low: float = 0
    high: float = 0
    optional: bool = False

    @property
    def wanted(self) -> str:
        """A description of the allowed values, such as ``a number from 0 to 100``."""
        if self.kind is str:
            return "text"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.ends}"

    @property
    def ends(self) -> str:
        """The range, such as ``0 to 100``."""
        return f"{_short(self.low)} to {_short(self.high)}"

    def allows(self, value: object) -> bool:
        """Whether the value has the right type and is in the range; an int is also a float."""
        if value is None:
            return self.optional
        if self.kind is str:
            return isinstance(value, str) and is_unicode(value)
        kinds = (int,) if self.kind is int else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]

    def parsed(self, text: str) -> Any:
        """Convert typed text to a value; blank text is None if the setting is optional.

        Raises ValueError, which says what is allowed.
        """
        try:
            value = None if self.optional and not text.strip() else self.kind(text)
        except ValueError:
            value = ...  # never allowed
        if not self.allows(value):
            raise ValueError(f"must be {self.wanted}")
        return value


SETTINGS = {
    "system": Range(str, "system prompt: instructions for the model"),
    "template": Range(str, "chat template; default: the model's own", optional=True),
    "temperature": Range(float, "randomness; 0 always chooses the most probable token", 0.0, 100.0),
    "top_p": Range(float, "sample from the best tokens that together reach this", 0.0, 1.0),
    "top_k": Range(int, "sample from this many of the best tokens; 0: no limit", 0, 1 << 24),
    "min_p": Range(float, "exclude tokens below this share of the best probability", 0.0, 1.0),
    "repetition_penalty": Range(float, "values above 1 discourage repetition", 0.01, 100.0),
    "seed": Range(
        int, "random seed, for reproducible answers; default: random", 0, (1 << 63) - 1, True
    ),
    "max_gen_len": Range(int, "maximum number of tokens in an answer", 1, 1 << 20),
}
# (lowest, highest) of each sampling setting for which a model's generation_config.json may have a
# default
RANGES = {
    name: (SETTINGS[name].low, SETTINGS[name].high)
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
}


@dataclass(frozen=True)
class Settings:
    """The settings of one conversation. Raises UserError if a value is not allowed.

    ``template``: a name or a file; None for the model's own template, or a guess if it has none.
    """

    system: str = ""
    template: str | None = None
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_gen_len: int = 1024

    def __post_init__(self) -> None:
        for name, allowed in SETTINGS.items():
            require_allowed(name, getattr(self, name), allowed)

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can represent."""
        return asdict(self)

    def updated(self, values: Mapping[str, Any]) -> "Settings":
        """A copy with the given values, as from ``as_dict``.

        Unknown names are ignored, as a newer version may have stored them. Raises UserError if a
        value is not allowed.
        """
        known = {field.name for field in fields(self)}
        return replace(self, **{name: values[name] for name in values if name in known})


def require_allowed(name: str, value: object, allowed: Range, where: str = "") -> None:
    """Raise UserError unless the value is allowed. ``where``: the beginning of the message."""
    if not allowed.allows(value):
        shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
        raise UserError(f"{where}{name} is {shown}, but must be {allowed.wanted}.")


def _short(number: float) -> str:
    return "2^63 - 1" if number == (1 << 63) - 1 else f"{number:.15g}"
