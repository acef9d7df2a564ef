"""Matrices in blocks of ggml's quantized formats, as they are in GGUF files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llama_cpu.kernels.formats import FORMATS
from llama_cpu.kernels.linear import KernelMatrix, quantize
from llama_cpu.weights.operations import NewTensor, StoredMatrix

BLOCK = 32  # numbers of a block of Q4_1 and Q8_0
BLOCK_BYTES = {"Q4_1": 20, "Q8_0": 34}  # the formats that this program writes
_CHUNK_BYTES = 4 << 20  # of float32 rows that are rounded at a time; they fit the cache


@dataclass(frozen=True)
class BlockWeight:
    """A matrix [out, columns] whose rows are blocks: uint8 [out, bytes of a row].

    ``kind``: ggml's name of the format, such as "Q4_K".
    """

    kind: str
    blocks: Tensor
    columns: int

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    @cached_property
    def matrix(self) -> KernelMatrix:
        """The matrix as kernels read it."""
        return KernelMatrix(self.kind, self.blocks, len(self.blocks), self.columns)

    def take_rows(self, ids: Tensor) -> Tensor:
        """Return the rows ``ids`` as float32 [len(ids), columns]."""
        rows = torch.empty(len(ids), self.columns)
        chosen = KernelMatrix(self.kind, self.blocks[ids], len(ids), self.columns)
        chosen.widen(0, len(ids), rows)
        return rows


@runtime_checkable
class StoredBlocks(Protocol):
    """A matrix that a file holds in blocks, such as ``checkpoint.gguf.QuantizedTensor``."""

    @property
    def kind(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def blocks(self) -> StoredMatrix:
        """Return the blocks: uint8 [out, bytes of a row]."""


def known_blocks(stored: object) -> StoredBlocks | None:
    """Return a stored matrix if it is in blocks that kernels can multiply."""
    is_known = isinstance(stored, StoredBlocks) and stored.kind in FORMATS
    return stored if is_known and isinstance(stored, StoredBlocks) else None


def mappable_blocks(stored: StoredMatrix) -> StoredMatrix | None:
    """Return the blocks of a stored matrix; None if it has none, or none that can be mapped."""
    known = known_blocks(stored)
    blocks = known.blocks() if known else None
    return blocks if blocks is not None and blocks.mapped() is not None else None


def from_blocks(stored: StoredMatrix, values: Tensor, new: NewTensor) -> BlockWeight:
    """Return the weight whose blocks were mapped or read."""
    known = known_blocks(stored)
    assert known is not None
    return BlockWeight(known.kind, values, stored.shape[1])


def quantized_blocks(stored: Sequence[StoredMatrix], new: NewTensor, kind: str) -> BlockWeight:
    """Read matrices and round them to blocks, one below the other.

    ``kind``: one of BLOCK_BYTES. The matrices are never completely in float32.
    """
    columns = stored[0].shape[1]
    heights = [matrix.shape[0] for matrix in stored]
    blocks = new((sum(heights), columns // BLOCK * BLOCK_BYTES[kind]), torch.uint8)
    step = max(1, _CHUNK_BYTES // (4 * columns))
    for matrix, piece in zip(stored, torch.split(blocks, heights), strict=True):
        known = known_blocks(matrix)
        if known is not None and known.kind == kind:  # rounded when the file was written
            known.blocks().fill(piece)
            continue
        for first in range(0, len(piece), step):
            last = min(first + step, len(piece))
            rows = torch.empty(last - first, columns)
            matrix.rows(first, last).fill(rows)
            quantize(kind, rows, piece[first:last])
    return BlockWeight(kind, blocks, columns)
