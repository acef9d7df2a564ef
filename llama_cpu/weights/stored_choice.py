"""Measurements of products on disk, so that they are made only at the first start.

A start while other programs run could also choose another product, which rounds differently.
"""

import contextlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.backends.cpu import get_cpu_capability

from llama_cpu import __version__
from llama_cpu.errors import UserError
from llama_cpu.system.atomic_files import remove_leftovers, write_text
from llama_cpu.system.processor import processor_name
from llama_cpu.system.safe_reading import read_json
from llama_cpu.weights.measuring import Measurement

_ROW_COUNTS = ("rows_at_once", "in_place_rows_at_once", "few_rows", "in_place_few_rows")
_MOST_ENTRIES = 64  # the oldest are dropped: other versions, models that are not used any more


@dataclass(frozen=True)
class Circumstances:
    """What a measurement depends on."""

    program: str  # version
    torch: str  # version
    processor: str  # name and vector instructions: cloud providers give some of them one name
    threads: int
    weight_format: str  # label
    shape: tuple[int, int]  # [out, in] of the sample

    @classmethod
    def here(cls, weight_format: str, shape: tuple[int, int], threads: int) -> "Circumstances":
        """Return the circumstances of this program, on this processor."""
        processor = f"{processor_name()}, {get_cpu_capability()}"
        return cls(__version__, str(torch.__version__), processor, threads, weight_format, shape)

    def as_object(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self) | {"shape": list(self.shape)}


class StoredChoices:
    """A JSON file of measurements, each with its circumstances.

    No state of the file is an error: what cannot be read is not found, and what cannot be written
    is not kept. If two programs write at once, the later one replaces the file, and the other's
    measurement is made again when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, circumstances: Circumstances) -> Measurement | None:
        """Return the measurement of these circumstances, if there is a complete one."""
        wanted = circumstances.as_object()
        for entry in reversed(self._entries()):
            if entry.get("circumstances") == wanted:
                return _measurement_from(entry)
        return None

    def keep(self, circumstances: Circumstances, measurement: Measurement) -> None:
        """Store a measurement in place of an earlier one of these circumstances, if possible."""
        key = circumstances.as_object()
        others = [entry for entry in self._entries() if entry.get("circumstances") != key]
        entries = [*others, {"circumstances": key, **asdict(measurement)}][-_MOST_ENTRIES:]
        with contextlib.suppress(OSError, UserError):  # read-only, full, not a folder
            self._path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._path.parent, [self._path.name])
            write_text(self._path, json.dumps({"measured": entries}, indent=1), replace=True)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries = read_json(self._path).get("measured")
        except UserError:  # missing or damaged
            return []
        if not isinstance(entries, list):
            return []
        return [entry for entry in entries if isinstance(entry, dict)]


def _measurement_from(entry: dict[str, Any]) -> Measurement | None:
    """Check the types of a stored measurement; None if it is damaged."""
    try:
        seconds = {
            name: {int(rows): float(value) for rows, value in times.items()}
            for name, times in entry["seconds"].items()
        }
        product, in_place = str(entry["product"]), str(entry["in_place"])
        rows = {name: int(entry[name]) for name in _ROW_COUNTS}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    values = [value for times in seconds.values() for value in times.values()]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        return None
    return Measurement(product=product, in_place=in_place, seconds=seconds, **rows)
