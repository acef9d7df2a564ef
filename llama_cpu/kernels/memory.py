"""Memory whose address compiled code is given."""

import torch
from torch import Tensor

_LINE = 64  # bytes of a cache line


def aligned(size: int) -> Tensor:
    """Return uninitialised memory of ``size`` bytes that begins at a cache line: uint8 [size]."""
    memory = torch.empty(size + _LINE, dtype=torch.uint8)
    return memory[-memory.data_ptr() % _LINE :][:size]


class Table:
    """A table of int64 fields that are 0 at first."""

    def __init__(self, fields: int) -> None:
        self._values = aligned(8 * fields).view(torch.int64).zero_()
        self.address = self._values.data_ptr()
        self._memory = self._values.numpy().data

    def __getitem__(self, field: int) -> int:
        return int(self._memory[field])

    def __setitem__(self, field: int, value: int) -> None:
        self._memory[field] = value
