"""Writing of ``torch.save`` files block by block: a zip of one pickle and the tensors' bytes.

Layout: PyTorch, torch/serialization.py ("archive/data.pkl", "archive/data/N", "archive/version",
"archive/byteorder"); zip: PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central
directory), 4.3.14 to 4.3.16 (end), 4.5.3 (zip64). Records are stored uncompressed and begin at a
multiple of 64 bytes, as torch's own do, so that they can be mapped.

``archive/.format_version`` is left out on purpose: if it is present, torch may compute the offsets
of the records from the lengths of its own headers instead of reading them from the file.
"""

import io
import math
import pickle
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any, NamedTuple

import torch

from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.conversion.block_copy import OnBytes, PlacedTensor, copy_tensors
from llama_cpu.system import torch_private
from llama_cpu.system.file_io import write_at

_ALIGNMENT = 64
_ELSEWHERE = 0xFFFFFFFF  # value of a 32-bit field whose number is in the zip64 field
_ZIP64_FROM = _ELSEWHERE
_UTF8_NAMES = 0x0800
_DATE = 1 << 5 | 1  # 1 January 1980: the same tensors give the same file
_STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
}
WRITABLE = _STORAGES.keys()


class _Record(NamedTuple):
    name: bytes
    size: int
    start: int  # offset of the local header

    @property
    def data_start(self) -> int:
        end = self.start + 30 + len(self.name) + len(self._sizes()) + 4
        return -(-end // _ALIGNMENT) * _ALIGNMENT

    def _sizes(self) -> bytes:
        """Return the zip64 field of a local header: size and compressed size, which are equal."""
        return struct.pack("<HHQQ", 1, 16, self.size, self.size) if self._is_large else b""

    @property
    def _is_large(self) -> bool:
        return self.size >= _ZIP64_FROM

    def local_header(self, checksum: int) -> bytes:
        sizes = self._sizes()
        padding = self.data_start - self.start - 30 - len(self.name) - len(sizes) - 4
        extra = sizes + struct.pack("<2sH", b"FB", padding) + bytes(padding)  # torch's padding
        size = _ELSEWHERE if self._is_large else self.size
        fields = (b"PK\3\4", 45, _UTF8_NAMES, 0, 0, _DATE, checksum, size, size)
        lengths = (len(self.name), len(extra))
        return struct.pack("<4s5H3I2H", *fields, *lengths) + self.name + extra

    def directory_entry(self, checksum: int) -> bytes:
        large = [self.size, self.size] if self._is_large else []
        if self.start >= _ZIP64_FROM:
            large.append(self.start)
        extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        size = _ELSEWHERE if self._is_large else self.size
        fields = (b"PK\1\2", 45, 45, _UTF8_NAMES, 0, 0, _DATE, checksum, size, size)
        lengths = (len(self.name), len(extra), 0, 0, 0, 0)
        offset = _ELSEWHERE if self.start >= _ZIP64_FROM else self.start
        return struct.pack("<4s6H3I5H2I", *fields, *lengths, offset) + self.name + extra


def write_pth(
    file: FileIO,
    tensors: Mapping[str, StoredTensor],
    dtypes: Mapping[str, torch.dtype],
    on_bytes: OnBytes,
) -> None:
    """Write a file that ``torch.load(weights_only=True)`` reads, with and without ``mmap``.

    ``dtypes``: one of ``WRITABLE`` for each name. ``on_bytes`` is called with the number of bytes
    of each block written. Raises UserError if a tensor cannot be read, OSError if the file cannot
    be written.
    """
    small = {
        "data.pkl": _pickle(tensors, dtypes),
        "byteorder": sys.byteorder.encode(),
        "version": b"3\n",
    }
    sizes = {name: len(content) for name, content in small.items()}
    for number, (name, tensor) in enumerate(tensors.items()):
        sizes[f"data/{number}"] = tensor_bytes(tensor, dtypes[name])
    records = _lay_out(sizes)
    placed = [
        PlacedTensor(tensor, dtypes[name], records[f"data/{number}"].data_start)
        for number, (name, tensor) in enumerate(tensors.items())
    ]
    checksums = {name: zlib.crc32(content) for name, content in small.items()}
    for number, checksum in enumerate(copy_tensors(file, placed, on_bytes)):
        checksums[f"data/{number}"] = checksum
    for key, record in records.items():
        header = record.local_header(checksums[key])
        write_at(file, record.start, memoryview(header + small.get(key, b"")))
    _write_directory(file, records, checksums)


def tensor_bytes(tensor: StoredTensor, dtype: torch.dtype) -> int:
    """Return the size of the tensor in this dtype, in bytes."""
    return math.prod(tensor.shape) * dtype.itemsize


def _lay_out(sizes: Mapping[str, int]) -> dict[str, _Record]:
    records, position = {}, 0
    for key, size in sizes.items():
        records[key] = _Record(f"archive/{key}".encode(), size, position)
        position = records[key].data_start + size
    return records


def _write_directory(
    file: FileIO, records: Mapping[str, _Record], checksums: Mapping[str, int]
) -> None:
    last = list(records.values())[-1]
    start = last.data_start + last.size
    directory = b"".join(record.directory_entry(checksums[key]) for key, record in records.items())
    count, size = len(records), len(directory)
    end64 = start + size
    fields = (b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    directory += struct.pack("<4sQ2H2I4Q", *fields)
    directory += struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1)
    counts = (min(count, 0xFFFF), min(count, 0xFFFF))
    fields32 = (b"PK\5\6", 0, 0, *counts, min(size, _ELSEWHERE), min(start, _ELSEWHERE), 0)
    directory += struct.pack("<4s4H2IH", *fields32)
    write_at(file, start, memoryview(directory))


@dataclass(frozen=True)
class _Storage:
    key: str  # the N of data/N
    count: int
    dtype: torch.dtype


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]


class _Pickler(pickle.Pickler):
    """Pickles a _Tensor as torch.save pickles a tensor: a function call with a storage's key."""

    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        if not isinstance(obj, _Storage):
            return None
        return "storage", _STORAGES[obj.dtype], obj.key, "cpu", obj.count

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, _Tensor):
            return NotImplemented
        strides = tuple(math.prod(obj.shape[axis + 1 :]) for axis in range(len(obj.shape)))
        # storage, offset, size, stride, requires_grad, backward hooks
        arguments: tuple[Any, ...] = (obj.storage, 0, obj.shape, strides, False, OrderedDict())
        return torch_private.rebuild_tensor(), arguments


def _pickle(tensors: Mapping[str, StoredTensor], dtypes: Mapping[str, torch.dtype]) -> bytes:
    target = io.BytesIO()
    _Pickler(target, protocol=2).dump(
        {
            name: _Tensor(
                _Storage(str(number), math.prod(tensor.shape), dtypes[name]), tensor.shape
            )
            for number, (name, tensor) in enumerate(tensors.items())
        }
    )
    return target.getvalue()
