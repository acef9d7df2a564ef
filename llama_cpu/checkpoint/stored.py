"""Tensors that lie in files: known by name, shape and type, read only when asked for.

Every format ends up as one of these. Nothing here knows what a tensor means.
"""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llama_cpu.errors import UserError
from llama_cpu.machine import forget_pages

CHUNK_BYTES = 32 << 20  # how much of a file is resident at once while it is converted


class StoredTensor(Protocol):
    """A tensor in a file, or spread over several."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype | None:
        """Type on disk; None for a quantised type that torch has no name for."""

    def mapped(self) -> Tensor | None:
        """The tensor in place, without a copy; None where that is not possible."""

    def fill(self, target: Tensor) -> None:
        """Write all values into ``target`` (same shape, any float type, any strides)."""


class MappedFile:
    """A file seen as bytes, mapped once and copy-on-write: nothing ever reaches the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise UserError(f"{path} is empty; get a complete copy of this file.")
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error

    def check_range(self, name: str, start: int, length: int) -> None:
        """Raise UserError unless bytes [start, start + length) are inside the file."""
        if start < 0 or length < 0 or start + length > self.size:
            raise UserError(
                f"{self.path} is truncated or damaged: '{name}' would end at byte {start + length} "
                f"of {self.size}; get a complete copy of this file."
            )

    def tensor(self, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = int(np.prod(shape, dtype=np.int64))
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.frombuffer(self.bytes, dtype=dtype, count=count, offset=start).view(*shape)

    def forget(self, start: int, length: int) -> None:
        forget_pages(self.bytes, start, length)


@dataclass(frozen=True)
class FileTensor:
    """A contiguous tensor at ``start`` bytes into a file."""

    file: MappedFile
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def mapped(self) -> Tensor | None:
        if self.start % self.dtype.itemsize:
            return None
        return self.file.tensor(self.start, self.shape, self.dtype)

    def fill(self, target: Tensor) -> None:
        if not self.shape:
            target.copy_(self.file.tensor(self.start, self.shape, self.dtype))
            return
        row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

        def copy_rows(first: int, last: int) -> None:
            start = self.start + first * row_bytes
            rows = self.file.tensor(start, (last - first, *self.shape[1:]), self.dtype)
            target[first:last].copy_(rows)
            self.file.forget(start, (last - first) * row_bytes)

        in_row_chunks(self.shape[0], row_bytes, copy_rows)


@dataclass(frozen=True)
class MemoryTensor:
    """A tensor that had to be read whole: the file's format cannot be mapped."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def mapped(self) -> Tensor | None:
        return self.tensor if self.tensor.is_contiguous() else None

    def fill(self, target: Tensor) -> None:
        target.copy_(self.tensor)


@dataclass(frozen=True)
class JoinedTensor:
    """Shards of one tensor, side by side along ``dim``."""

    parts: tuple[StoredTensor, ...]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.parts[0].shape)
        shape[self.dim] = sum(part.shape[self.dim] for part in self.parts)
        return tuple(shape)

    @property
    def dtype(self) -> torch.dtype | None:
        return self.parts[0].dtype

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        slices = target.split([part.shape[self.dim] for part in self.parts], dim=self.dim)
        for part, piece in zip(self.parts, slices, strict=True):
            part.fill(piece)


def in_row_chunks(rows: int, row_bytes: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` over [0, rows) so that each call covers about CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for first in range(0, rows, step):
        work(first, min(first + step, rows))
