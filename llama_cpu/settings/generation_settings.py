"""How a conversation is answered: every setting with its type, its range and a line about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from llama_cpu.errors import UserError


@dataclass(frozen=True)
class Range:
    """What values a setting may have. ``kind``: float, int or str; ``optional``: None, too."""

    kind: type
    about: str
    low: float = 0
    high: float = 0
    optional: bool = False

    @property
    def wanted(self) -> str:
        """``a number from 0 to 100``."""
        if self.kind is str:
            return "text"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.ends}"

    @property
    def ends(self) -> str:
        """``0 to 100``."""
        return f"{_short(self.low)} to {_short(self.high)}"

    def allows(self, value: object) -> bool:
        """Whether it is of the right type and in the range; a whole number serves as any."""
        if value is None:
            return self.optional
        if self.kind is str:
            return isinstance(value, str) and _is_unicode(value)
        kinds = (int,) if self.kind is int else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]

    def parsed(self, text: str) -> Any:
        """The value that was typed; nothing typed is None where that is allowed.

        Raises ValueError, which says what is wanted.
        """
        try:
            value = None if self.optional and not text.strip() else self.kind(text)
        except ValueError:
            value = ...  # nothing that is allowed
        if not self.allows(value):
            raise ValueError(f"must be {self.wanted}")
        return value


SETTINGS = {
    "system": Range(str, "what the model is told before the conversation"),
    "template": Range(str, "how messages become a prompt; default: the model's own", optional=True),
    "temperature": Range(float, "0 always takes the best token, above 1 gets wild", 0.0, 100.0),
    "top_p": Range(float, "draw from the best tokens that together reach this", 0.0, 1.0),
    "top_k": Range(int, "draw from so many of the best tokens; 0: no limit", 0, 1 << 24),
    "min_p": Range(float, "no token below this share of the best one's probability", 0.0, 1.0),
    "repetition_penalty": Range(
        float, "above 1 discourages tokens that were there already", 0.01, 100.0
    ),
    "seed": Range(
        int, "the same number gives the same answers; default: chance", 0, (1 << 63) - 1, True
    ),
    "max_gen_len": Range(int, "tokens in an answer at the most", 1, 1 << 20),
}
# name: (lowest, highest) of what changes how tokens are drawn; a model's generation_config.json
# may give a default for each
RANGES = {
    name: (SETTINGS[name].low, SETTINGS[name].high)
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
}


@dataclass(frozen=True)
class Settings:
    """The settings of one conversation. Raises UserError where a value is not allowed.

    ``template`` None is the model's own, or a guess where it has none; else a name or a file.
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
        """As JSON can hold it."""
        return asdict(self)

    def updated(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with others from ``as_dict``. Unknown names, perhaps a newer version's,
        are left out. Raises UserError where a value is not allowed."""
        known = {field.name for field in fields(self)}
        return replace(self, **{name: values[name] for name in values if name in known})


def require_allowed(name: str, value: object, allowed: Range, where: str = "") -> None:
    """Raise UserError, which begins with ``where``, unless the value is allowed."""
    if not allowed.allows(value):
        shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
        raise UserError(f"{where}{name} is {shown}, but must be {allowed.wanted}.")


def _short(number: float) -> str:
    return "2^63 - 1" if number == (1 << 63) - 1 else f"{number:.15g}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
