"""Stored tensors: tensors in files with a known shape and dtype, whose values are read on demand.

The readers of all file formats return them. This module is independent of models.
"""

import math
import mmap
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from llama_cpu.errors import UserError
from llama_cpu.system.file_io import read_ahead, read_at
from llama_cpu.system.safe_reading import reason, require_regular

# Number of bytes converted at a time, small enough for the intermediate results to stay in the
# processor's cache.
CHUNK_BYTES = 4 << 20


class StoredTensor(Protocol):
    """A tensor stored in one or several files."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype on disk; None for a quantized type without a torch dtype."""

    def mapped(self) -> Tensor | None:
        """Return the memory-mapped tensor, without a copy; None if it cannot be mapped."""

    def fill(self, target: Tensor) -> None:
        """Write all values into ``target`` (same shape, any float dtype, any strides)."""

    def rows(self, first: int, last: int) -> "StoredTensor":
        """Return the rows [first, last) as a stored tensor."""


class MappedFile:
    """A file mapped into memory once, read-only.

    The mapping is not copy-on-write: Linux and Windows would reserve memory for the whole file, so
    that a file larger than the memory could not even be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            require_regular(path)
            self._file = path.open("rb", buffering=0)
            weakref.finalize(self, self._file.close)
            self.size = self._file.seek(0, 2)
            if self.size == 0:
                raise UserError(f"{path} is empty; get a complete copy of this file.")
            self.bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({reason(error)}).") from error

    def check_range(self, name: str, start: int, length: int) -> None:
        """Raise UserError unless bytes [start, start + length) are inside the file."""
        if start < 0 or length < 0 or start + length > self.size:
            raise UserError(
                f"{self.path} is truncated or damaged: '{name[:80]}' would end at byte "
                f"{start + length} of {self.size}; get a complete copy of this file."
            )

    def check_disjoint(self, spans: Iterable[tuple[int, int, str]]) -> None:
        """Raise UserError if two of the spans (start, end, name) overlap."""
        last_end, last_name = 0, ""
        for start, end, name in sorted(spans):
            if start < last_end:
                raise UserError(
                    f"{self.path} is damaged: '{last_name[:80]}' and '{name[:80]}' share bytes; "
                    "get a good copy of this file."
                )
            last_end, last_name = max(end, last_end), name

    def tensor(self, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape)
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        with warnings.catch_warnings():
            # torch warns that the memory is read-only, but weights are never written.
            warnings.simplefilter("ignore", UserWarning)
            flat = torch.frombuffer(self.bytes, dtype=dtype, count=count, offset=start)
        return flat.view(*shape)

    def read_ahead(self, start: int, length: int) -> None:
        read_ahead(self._file, start, length)

    def read(self, start: int, target: Tensor) -> None:
        """Fill the contiguous ``target`` with the bytes from offset ``start``. Raises UserError.

        Unlike access through the mapping, this does not add to resident memory, runs in several
        threads at once, and raises an error instead of ending the process if the disk fails.
        """
        data = target.flatten().view(torch.uint8).numpy().data
        try:
            done = read_at(self._file, start, data)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({reason(error)}).") from error
        if done < len(data):
            raise UserError(f"{self.path} was shortened while it was read; try again.")


@dataclass(frozen=True)
class FileTensor:
    """A contiguous tensor at byte offset ``start`` of a file."""

    file: MappedFile
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def mapped(self) -> Tensor | None:
        if self.start % self.dtype.itemsize:
            return None
        return self.file.tensor(self.start, self.shape, self.dtype)

    def read_ahead(self) -> None:
        """Ask the system to read the mapped pages before they are used; may wait for the disk."""
        end = self.start + math.prod(self.shape) * self.dtype.itemsize
        for first in range(self.start, end, CHUNK_BYTES):
            self.file.read_ahead(first, min(CHUNK_BYTES, end - first))

    def fill(self, target: Tensor) -> None:
        if target.dtype == self.dtype and target.is_contiguous():
            self.file.read(self.start, target)
            return
        if not self.shape:
            target.copy_(self.file.tensor(self.start, self.shape, self.dtype))
            return
        row_bytes = self._row_bytes()

        def copy_rows(first: int, last: int) -> None:
            rows = torch.empty((last - first, *self.shape[1:]), dtype=self.dtype)
            self.file.read(self.start + first * row_bytes, rows)
            target[first:last].copy_(rows)

        in_row_chunks(self.shape[0], row_bytes, copy_rows)

    def rows(self, first: int, last: int) -> "FileTensor":
        start = self.start + first * self._row_bytes()
        return FileTensor(self.file, start, (last - first, *self.shape[1:]), self.dtype)

    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class MemoryTensor:
    """A tensor in memory, read from a file that cannot be mapped, or a strided view of a file."""

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

    def rows(self, first: int, last: int) -> "MemoryTensor":
        return MemoryTensor(self.tensor[first:last])


@dataclass(frozen=True)
class JoinedTensor:
    """A tensor whose parts, in several shards, are joined along ``dim`` when it is read."""

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
        start = 0
        for part in self.parts:
            length = part.shape[self.dim]
            part.fill(target.narrow(self.dim, start, length))
            start += length

    def rows(self, first: int, last: int) -> StoredTensor:
        if self.dim != 0:
            return JoinedTensor(tuple(part.rows(first, last) for part in self.parts), self.dim)
        pieces = []
        for part in self.parts:
            if first < part.shape[0] and last > 0:
                pieces.append(part.rows(max(first, 0), min(last, part.shape[0])))
            first, last = first - part.shape[0], last - part.shape[0]
        return pieces[0] if len(pieces) == 1 else JoinedTensor(tuple(pieces), 0)


@dataclass(frozen=True)
class SlicedTensor:
    """The columns [start, start + length) of a stored matrix."""

    whole: StoredTensor
    start: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0], self.length)

    @property
    def dtype(self) -> torch.dtype | None:
        return self.whole.dtype

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        def copy_rows(first: int, last: int) -> None:
            rows = torch.empty((last - first, self.whole.shape[1]), dtype=target.dtype)
            self.whole.rows(first, last).fill(rows)
            target[first:last].copy_(rows[:, self.start : self.start + self.length])

        in_row_chunks(self.shape[0], self.whole.shape[1] * target.itemsize, copy_rows)

    def rows(self, first: int, last: int) -> "SlicedTensor":
        return SlicedTensor(self.whole.rows(first, last), self.start, self.length)


def slice_tensor(whole: StoredTensor, dim: int, start: int, length: int) -> StoredTensor:
    """Return the part [start, start + length) of a stored tensor along dimension 0 or 1."""
    if dim == 0:
        return whole.rows(start, start + length)
    return SlicedTensor(whole, start, length)


def in_row_chunks(rows: int, row_bytes: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` for consecutive ranges of rows, each of about CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for first in range(0, rows, step):
        work(first, min(first + step, rows))
