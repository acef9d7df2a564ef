"""Typed and range-checked access to the key-value pairs of a file."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError


class Fields:
    """Key-value pairs of a configuration file or a header, checked on access.

    Every method raises UserError, naming the key and the file, if the value is missing without a
    default, has another type, or is out of range.
    """

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        self.values = values
        self.file = file

    def has(self, key: str) -> bool:
        """Return whether the key is present and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        value = self._get(key, default)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or not low <= value <= high:
            raise self._bad(key, value, f"a whole number from {low} to {high}")
        return int(value)

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from ``low`` to ``high``, both included."""
        value = self._get(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # NaN fails the comparison, too
            raise self._bad(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a boolean; numbers and strings are refused."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._bad(key, value, "true or false")
        return value

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"{self.file} has no field '{key}'; get a complete copy of this file.")
        return value

    def _bad(self, key: str, value: Any, wanted: str) -> UserError:
        return UserError(
            f"{self.file}: '{key}' is {reprlib.repr(value)}, but must be {wanted}; "
            "get a good copy of this file."
        )
