"""The file format of a KV cache: safetensors with the tensors ``token_ids`` and ``keys_values``.

An int8 cache has a third one, ``scales``, between these, so that float32 numbers are aligned.

The label (the metadata) and the number of tokens determine the whole header. A reader builds the
header that it expects and compares the bytes; it uses no size or offset from the file. A SHA-256
checksum covers the whole file.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from itertools import chain
from pathlib import Path
from threading import Event as Flag
from types import TracebackType

import torch
from torch import Tensor

from llama_cpu.errors import Cancelled
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.system.file_io import read_at, write_at
from llama_cpu.system.safe_reading import require_regular

Progress = Callable[[int, int], None]  # bytes done, total bytes

_HEADER_BYTES = 1 << 16
_TYPE_NAMES = {
    torch.int32: "I32",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
}
_NO_CHECKSUM = "0" * 64


class Damaged(Exception):
    """The file has no valid label, or its contents do not agree with the label."""


def write_kv(
    file: FileIO,
    label: Mapping[str, str],
    cache: KVCache,
    length: int,
    on_progress: Progress,
    stop: Flag,
) -> None:
    """Write the cache's first ``length`` tokens to an empty file.

    ``label``: entries that a reader checks before using the file. Raises OSError, and Cancelled
    once ``stop`` is set.
    """
    header = _header(label, cache, length, _NO_CHECKSUM)
    ids = _packed(cache.token_ids[:length])
    checksum = hashlib.sha256(header + ids)
    write_at(file, len(header), memoryview(ids))
    start, end = len(header) + len(ids), file_bytes(cache, length, label)
    for piece in _pieces(cache, length):
        if stop.is_set():
            raise Cancelled
        data = _bytes(piece)
        write_at(file, start, data)
        checksum.update(data)
        start += len(data)
        on_progress(start, end)
    write_at(file, 0, memoryview(_header(label, cache, length, checksum.hexdigest())))


def file_bytes(cache: KVCache, length: int, label: Mapping[str, str]) -> int:
    """Size of the file that ``write_kv`` writes."""
    header = len(_header(label, cache, length, _NO_CHECKSUM))
    return header + (4 + cache.bytes_per_token) * length


class KVFile:
    """A KV cache file, open for reading. Only ``label`` has been read, and nothing is verified.

    Raises OSError if the file cannot be read, Damaged if it has no label.
    """

    def __init__(self, path: Path) -> None:
        require_regular(path)
        self._file = FileIO(path, "r")
        try:
            self.label = self._read_label()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "KVFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read_label(self) -> dict[str, str]:
        size = int.from_bytes(self._read(0, 8), "little")
        if size > _HEADER_BYTES:
            raise Damaged
        try:
            label: dict[str, str] = json.loads(self._read(8, size))["__metadata__"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise Damaged from error
        if not isinstance(label, dict) or not all(isinstance(each, str) for each in label.values()):
            raise Damaged
        return label

    def read_into(
        self, cache: KVCache, vocab_size: int, on_progress: Progress, stop: Flag
    ) -> list[int]:
        """Replace the contents of the cache by the tokens in the file, and return their ids.

        If that fails, the cache is unchanged or empty. Raises Damaged, OSError, and Cancelled once
        ``stop`` is set.
        """
        label = dict(self.label)
        length, expected = _count(label.pop("tokens", "")), label.pop("sha256", "")
        if not 0 < length <= cache.max_seq_len or len(expected) != len(_NO_CHECKSUM):
            raise Damaged
        header = _header(label, cache, length, expected)
        end = file_bytes(cache, length, label)
        if os.fstat(self._file.fileno()).st_size != end or self._read(0, len(header)) != header:
            raise Damaged
        packed = self._read(len(header), 4 * length)
        ids = _unpacked(packed)
        if not all(0 <= id < vocab_size for id in ids):
            raise Damaged
        cache.truncate(0)
        checksum = hashlib.sha256(_header(label, cache, length, _NO_CHECKSUM) + packed)
        start = len(header) + len(packed)
        for piece in _pieces(cache, length):
            if stop.is_set():
                raise Cancelled
            data = _bytes(piece)
            if read_at(self._file, start, data) < len(data) or not _is_sound(piece):
                raise Damaged
            checksum.update(data)
            start += len(data)
            on_progress(start, end)
        if checksum.hexdigest() != expected:
            raise Damaged
        cache.extend(ids)
        return ids

    def _read(self, start: int, length: int) -> bytes:
        data = bytearray(length)
        if read_at(self._file, start, memoryview(data)) < length:
            raise Damaged
        return bytes(data)


def _header(label: Mapping[str, str], cache: KVCache, length: int, checksum: str) -> bytes:
    """The bytes of the file before its tensors (safetensors README, "Format")."""
    metadata = {**label, "tokens": str(length), "sha256": checksum}
    table: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, dtype, shape in _tensors(cache, length):
        start, end = end, end + math.prod(shape) * dtype.itemsize
        kind = _TYPE_NAMES[dtype]
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


def _tensors(cache: KVCache, length: int) -> Iterator[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Yield name, type and shape of the tensors, in the order of the file."""
    shape = cache.shape(length)
    yield "token_ids", torch.int32, (length,)
    if cache.scales is not None:
        yield "scales", cache.scales.dtype, shape[:-1]
    yield "keys_values", cache.dtype, shape


def _pieces(cache: KVCache, length: int) -> Iterator[Tensor]:
    """Yield what follows the token ids in the file, as views of the cache."""
    return chain(cache.scale_pieces(length), cache.pieces(length))


def _is_sound(piece: Tensor) -> bool:
    """Whether a piece of the cache could have been computed; pieces of scales are [length]."""
    if piece.dtype is torch.int8:
        return int(piece.min()) >= -127  # -128 never results from quantizing
    is_scale = piece.dim() == 1
    return math.isfinite(piece.sum()) and not (is_scale and float(piece.min()) < 0)


def _packed(ids: list[int]) -> bytes:
    return torch.tensor(ids, dtype=torch.int32).numpy().tobytes()


def _unpacked(data: bytes) -> list[int]:
    return torch.frombuffer(bytearray(data), dtype=torch.int32).tolist()


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _bytes(piece: Tensor) -> memoryview:
    return piece.reshape(-1).view(torch.uint8).numpy().data
