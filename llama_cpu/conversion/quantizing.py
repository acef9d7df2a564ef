"""Matrices that become int8 as they are read, for the layout of ``int8``.

A row's scale wants the whole row, and rows of wo and w2 are spread over the shards: rows are
joined before they are rounded, a few at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_cpu.checkpoint.int8 import SCALE_SUFFIX, Int8Tensor
from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.weights.quantization import quantize_rows, scale_rows

_CHUNK_BYTES = 1 << 20  # of float32 rows: they stay in a core's cache


def quantized(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Each matrix's values and scale, by the names of ``int8``; the other tensors as they are."""
    result: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) != 2:
            result[name] = tensor
        elif isinstance(tensor, Int8Tensor):
            result[name], result[name + SCALE_SUFFIX] = tensor.values, tensor.scale
        else:
            result[name] = _Values(tensor, name)
            result[name + SCALE_SUFFIX] = _Scale(tensor, name)
    return result


@dataclass(frozen=True)
class _Values:
    """The int8 values of a matrix."""

    matrix: StoredTensor
    name: str
    dtype = torch.int8

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        for first, last, rows in _chunks(self.matrix):
            quantize_rows(rows, target[first:last], torch.empty(last - first))

    def rows(self, first: int, last: int) -> "_Values":
        return _Values(self.matrix.rows(first, last), self.name)


@dataclass(frozen=True)
class _Scale:
    """The scales of a matrix's rows."""

    matrix: StoredTensor
    name: str
    dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape[:1]

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        for first, last, rows in _chunks(self.matrix):
            scale_rows(rows, target[first:last])
        if not bool(target.isfinite().all()):
            raise UserError(
                f"The tensor '{self.name}' holds infinite numbers or such as are none, which int8 "
                "cannot express; leave out --int8."
            )

    def rows(self, first: int, last: int) -> "_Scale":
        return _Scale(self.matrix.rows(first, last), self.name)


def _chunks(matrix: StoredTensor) -> Iterator[tuple[int, int, Tensor]]:
    """A few rows at a time: first, last, and in float32 the rows [last - first, in]."""
    step = max(1, _CHUNK_BYTES // (4 * matrix.shape[1]))
    for first in range(0, matrix.shape[0], step):
        last = min(first + step, matrix.shape[0])
        rows = torch.empty(last - first, matrix.shape[1])
        matrix.rows(first, last).fill(rows)
        yield first, last, rows
