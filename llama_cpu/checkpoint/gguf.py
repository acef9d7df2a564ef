"""GGUF, the one-file format of llama.cpp (ggml, docs/gguf.md).

The tables of types and the dequantizers come from the ``gguf`` library. Its reader is not used,
because it trusts the sizes in the header and takes seconds to read a vocabulary.
"""

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch
from torch import Tensor

from llama_cpu.checkpoint.base import Checkpoint, check_tensors
from llama_cpu.checkpoint.stored import FileTensor, MappedFile, StoredTensor, in_row_chunks
from llama_cpu.errors import UserError
from llama_cpu.model.architectures import gguf_architecture
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.tensors import renamed
from llama_cpu.system.fields import Fields

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
# Limits far above any real file (a vocabulary of 262144 tokens takes 25 MB), yet harmless.
_MAX_TENSORS, _MAX_VALUES, _MAX_ITEMS, _MAX_STRING = 1 << 16, 1 << 16, 1 << 22, 1 << 24
_MAX_HEADER_BYTES = 1 << 26
_TORCH_TYPES = {
    gguf.GGMLQuantizationType.F64: torch.float64,
    gguf.GGMLQuantizationType.F32: torch.float32,
    gguf.GGMLQuantizationType.F16: torch.float16,
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
}


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file. Raises UserError if it is damaged or not supported."""
    metadata, stored = read_gguf(path)
    architecture = gguf_architecture(metadata.get("general.architecture"), path)
    tensors = renamed(stored, {spec.gguf: spec.name for spec in architecture.tensors})
    rope_freqs = tensors.pop("rope_freqs.weight", None)
    embedding = tensors.get("tok_embeddings.weight")
    vocab_size = embedding.shape[0] if embedding and embedding.shape else 1
    tied_output = "output.weight" not in tensors
    config = architecture.config_from_gguf(Fields(metadata, path), vocab_size, tied_output)
    if rope_freqs is not None:
        config = replace(config, rope_factors=_rope_factors(rope_freqs, config, path))
    check_tensors(config, tensors, path)
    return Checkpoint(path, path.stem, config, tensors, metadata)


def _rope_factors(stored: StoredTensor, config: ModelConfig, path: Path) -> tuple[float, ...]:
    """Return Llama 3.1's rotary scaling: a divisor for each frequency."""
    if stored.shape != (config.head_dim // 2,):
        raise UserError(f"{path}: the tensor 'rope_freqs.weight' has the wrong shape.")
    factors = torch.empty(stored.shape)
    stored.fill(factors)
    return tuple(factors.tolist())


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Read the metadata and the tensors, by their names in the file, of GGUF versions 2 and 3.

    Every size is checked against the size of the file before it is used. Raises UserError if the
    file is damaged.
    """
    file = MappedFile(path)
    if file.bytes[:4] != b"GGUF":
        raise UserError(f"{path} is not a GGUF file (it does not begin with the letters GGUF).")
    header = _Header(file)
    version = header.scalar("I")
    if version not in (2, 3):
        raise UserError(f"{path} is GGUF version {version}; versions 2 and 3 can be read.")
    tensor_count = header.count("tensors", 24, _MAX_TENSORS)
    value_count = header.count("values", 13, _MAX_VALUES)
    metadata = {}
    for _ in range(value_count):
        key = header.string()
        metadata[key] = header.value(header.scalar("I"))
    if metadata.get("split.count", 1) not in (0, 1):
        raise UserError(
            f"{path} is one part of a split model; join the parts with gguf-split first."
        )
    entries = [header.tensor_entry() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise UserError(
            f"{path}: 'general.alignment' is {str(alignment)[:40]!r}; the file is damaged."
        )
    data_start = -(-header.position // alignment) * alignment
    tensors = {entry.name: _stored(file, data_start, entry) for entry in entries}
    if len(tensors) < len(entries):
        raise UserError(f"{path} names a tensor twice; get a good copy of this file.")
    file.check_disjoint(
        (data_start + entry.offset, data_start + entry.offset + entry.size, entry.name)
        for entry in entries
    )
    return metadata, tensors


class _Entry(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int:
        """Size in bytes. Raises KeyError or ValueError for an unknown type."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(self.kind)]
        return math.prod(self.shape) // block * int(block_bytes)


class _Header:
    """A cursor over the header; every read is checked against the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 4

    def take(self, length: int) -> bytes:
        self.file.check_range("the header", self.position, length)
        if self.position + length > _MAX_HEADER_BYTES:
            raise UserError(f"{self.file.path} has a header without an end; it is damaged.")
        start, self.position = self.position, self.position + length
        return self.file.bytes[start : self.position]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, what: str, item_bytes: int, most: int) -> int:
        """Read and check the number of following items, each of at least ``item_bytes`` bytes."""
        count = int(self.scalar("Q"))
        if count > most:
            raise UserError(
                f"{self.file.path} is damaged: it claims to hold {count} {what}; get a complete "
                "copy of this file."
            )
        self.file.check_range(what, self.position, count * item_bytes)
        return count

    def string(self) -> str:
        length = self.count("letters in a row", 1, _MAX_STRING)
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < 4:
            return self._array(depth)
        raise UserError(f"{self.file.path} has a damaged header; get a complete copy of this file.")

    def _array(self, depth: int) -> list[Any]:
        kind = self.scalar("I")
        if kind in _SCALARS:
            code = _SCALARS[kind]
            count = self.count("values in a row", struct.calcsize("<" + code), _MAX_ITEMS)
            return list(
                struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code)))
            )
        count = self.count("values in a row", 8, _MAX_ITEMS)
        if kind == _STRING:
            return self._strings(count)
        return [self.value(kind, depth + 1) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """Read many strings: a vocabulary and its merges are hundreds of thousands."""
        data, position = self.file.bytes, self.position
        end, length_at = min(len(data), _MAX_HEADER_BYTES), struct.Struct("<Q").unpack_from
        strings: list[str] = []
        for _ in range(count):
            start = position + 8
            position = start + length_at(data, position)[0] if start <= end else end + 1
            if position > end:  # reading it once more tells what is wrong
                return [*strings, self.string()]
            strings.append(data[start:position].decode("utf-8", errors="replace"))
            self.position = position
        return strings

    def tensor_entry(self) -> _Entry:
        """Read the entry of a tensor. GGUF lists the fastest dimension first, torch last."""
        name = self.string()
        n_dims = self.scalar("I")
        if n_dims > 4:
            raise UserError(
                f"{self.file.path} has a damaged header; get a complete copy of this file."
            )
        shape = tuple(self.scalar("Q") for _ in range(n_dims))[::-1]
        return _Entry(name, shape, self.scalar("I"), self.scalar("Q"))


def _stored(file: MappedFile, data_start: int, entry: _Entry) -> StoredTensor:
    name, shape = entry.name[:80], entry.shape
    try:
        quantization = gguf.GGMLQuantizationType(entry.kind)
        block, _ = gguf.GGML_QUANT_SIZES[quantization]
    except (ValueError, KeyError) as error:
        raise UserError(f"{file.path}: '{name}' has the unknown type {entry.kind}.") from error
    if not shape or shape[-1] % block:
        raise UserError(f"{file.path}: the shape of '{name}' does not suit its type; damaged file?")
    start = data_start + entry.offset
    file.check_range(name, start, entry.size)
    if quantization in _TORCH_TYPES:
        return FileTensor(file, start, shape, _TORCH_TYPES[quantization])
    return QuantizedTensor(file, start, shape, quantization)


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor of quantized ggml blocks, which is dequantized a few rows at a time."""

    file: MappedFile
    start: int
    shape: tuple[int, ...]
    quantization: gguf.GGMLQuantizationType

    dtype = None

    @property
    def kind(self) -> str:
        """Ggml's name of the type."""
        return str(self.quantization.name)

    def blocks(self) -> FileTensor:
        """Return the blocks of a matrix: uint8 [rows, bytes of a row]."""
        return FileTensor(self.file, self.start, (self.shape[0], self._row_bytes()), torch.uint8)

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        row_bytes = self._row_bytes()
        rows_out = target.reshape(-1, self.shape[-1])  # a view; a vector becomes one row

        def convert(first: int, last: int) -> None:
            raw = torch.empty(last - first, row_bytes, dtype=torch.uint8)
            self.file.read(self.start + first * row_bytes, raw)
            try:
                values = gguf.quants.dequantize(raw.numpy(), self.quantization)
            except NotImplementedError as error:
                raise UserError(
                    f"{self.file.path}: weights of type {self.quantization.name} cannot be read."
                ) from error
            rows_out[first:last].copy_(torch.from_numpy(values))

        # Dequantizing makes several float32 copies of its input.
        in_row_chunks(rows_out.shape[0], 16 * self.shape[-1], convert)

    def rows(self, first: int, last: int) -> "QuantizedTensor":
        assert len(self.shape) == 2  # a vector could only be cut between blocks
        start = self.start + first * self._row_bytes()
        return QuantizedTensor(self.file, start, (last - first, self.shape[1]), self.quantization)

    def _row_bytes(self) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.quantization]
        return self.shape[-1] // block * int(block_bytes)
