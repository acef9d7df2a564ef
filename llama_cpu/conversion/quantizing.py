"""Quantising ahead of time: matrices that are quantised while they are read, to be written.

Scales belong to whole rows, or to 32 numbers of a row, but the rows of wo and w2 are spread over
the shards. Rows are therefore joined before they are quantised, a few at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.weights.operations import FilePart
from llama_cpu.weights.weight_format import WeightFormat

_CHUNK_BYTES = 1 << 20  # size of the float32 rows quantised at a time; they fit a core's cache


def quantized(
    tensors: Mapping[str, StoredTensor], weight_format: WeightFormat
) -> dict[str, StoredTensor]:
    """Replace each matrix by the tensors that store it in this format.

    Other tensors stay unchanged, as do all tensors if the format is not a quantised one.
    """
    result: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        is_matrix = len(tensor.shape) == 2
        parts = weight_format.operations.parts_of(name, tensor.shape) if is_matrix else ()
        if not parts:
            result[name] = tensor
        for part in parts:
            stored = part.stored(tensor)  # already quantised in its file
            result[name + part.suffix] = (
                QuantizedPart(tensor, part, name, weight_format)
                if stored is None
                else cast(StoredTensor, stored)
            )
    return result


@dataclass(frozen=True)
class QuantizedPart:
    """One of the tensors that store a quantised matrix, computed from the matrix when read."""

    matrix: StoredTensor
    part: FilePart
    name: str  # name of the matrix
    weight_format: WeightFormat

    @property
    def shape(self) -> tuple[int, ...]:
        return self.part.shape(self.matrix.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.part.dtype

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        """Quantise all rows. Raises UserError if the format cannot hold a number of the matrix."""
        rows, columns = self.matrix.shape
        step = max(1, _CHUNK_BYTES // (4 * columns))
        for first in range(0, rows, step):
            last = min(first + step, rows)
            values = torch.empty(last - first, columns)
            self.matrix.rows(first, last).fill(values)
            try:
                self.part.fill(values, target[first:last])
            except OverflowError as error:
                raise UserError(
                    f"The tensor '{self.name}' contains numbers that {self.weight_format.label} "
                    "cannot represent (infinite ones, NaN, or far too large ones); leave out "
                    f"{self.weight_format.merge_switch}."
                ) from error

    def rows(self, first: int, last: int) -> "QuantizedPart":
        rows = self.matrix.rows(first, last)
        return QuantizedPart(rows, self.part, self.name, self.weight_format)
