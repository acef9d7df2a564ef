"""Models to begin with; ``starters.json`` lists them, and where that was confirmed."""

import json
from dataclasses import dataclass
from pathlib import Path

from llama_cpu.hub.reference import Reference

_FILE = Path(__file__).with_name("starters.json")
_CONTEXT = 4096  # tokens; the default of a chat
_PROGRAM_BYTES = 500 << 20  # of the program with its libraries, and its working space


@dataclass(frozen=True)
class Starter:
    """A model on the hub. ``bytes`` are those of its file, ``kv_bytes`` those of one token."""

    name: str
    repository: str
    quantization: str
    bytes: int
    kv_bytes: int
    licence: str

    @property
    def reference(self) -> Reference:
        return Reference(self.repository, self.quantization)

    @property
    def memory(self) -> int:
        """Roughly the bytes of memory that a chat with it needs, its weights as they are."""
        return self.bytes + _CONTEXT * self.kv_bytes + _PROGRAM_BYTES


def starters() -> list[Starter]:
    """Read the list."""
    models = json.loads(_FILE.read_text(encoding="utf-8"))["models"]
    return [
        Starter(**{name: value for name, value in each.items() if name != "confirmed"})
        for each in models
    ]
