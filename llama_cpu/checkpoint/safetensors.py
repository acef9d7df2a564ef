"""Hugging Face's safetensors: a JSON table of contents, then the bytes."""

import json
import math
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

import torch

from llama_cpu.checkpoint.block_copy import OnBytes, PlacedTensor, copy_tensors
from llama_cpu.checkpoint.stored import FileTensor, MappedFile, StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.machine import write_at

_HEADER_BYTES = 100_000_000  # the limit of the safetensors library, too
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Tensors of a ``.safetensors`` file by name.

    Layout (safetensors README, "Format"): 8 bytes little-endian N, N bytes of JSON, then the data
    to which ``data_offsets`` refer. The library of that name opens such files too, but does not
    tell where in the file a tensor lies.

    Raises UserError where the file is damaged.
    """
    file = MappedFile(path)
    header_size = int.from_bytes(file.bytes[:8], "little")
    file.check_range("table of contents", 8, header_size)
    if header_size > _HEADER_BYTES:
        raise UserError(f"{path} has a table of contents of {header_size} bytes; it is damaged.")
    try:
        header = json.loads(bytes(file.bytes[8 : 8 + header_size]))
        if not isinstance(header, dict):
            raise ValueError("not an object")
        header.pop("__metadata__", None)
        tensors = {
            name: _stored(file, 8 + header_size, name, entry) for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} has a damaged table of contents; get a complete copy of this file."
        ) from error
    file.check_disjoint(
        (tensor.start, tensor.start + math.prod(tensor.shape) * tensor.dtype.itemsize, name)
        for name, tensor in tensors.items()
    )
    return dict(tensors)


def _stored(file: MappedFile, data_start: int, name: str, entry: dict) -> FileTensor:
    shape = tuple(_whole(size) for size in entry["shape"])
    begin, end = (_whole(offset) for offset in entry["data_offsets"])
    if entry["dtype"] not in _DTYPES:
        raise UserError(
            f"{file.path}: '{name[:80]}' has the type {str(entry['dtype'])[:20]!r}, which cannot "
            "be read."
        )
    dtype = _DTYPES[entry["dtype"]]
    file.check_range(name, data_start + begin, end - begin)
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{name}: {shape} does not take {end - begin} bytes")
    return FileTensor(file, data_start + begin, shape, dtype)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def write_safetensors(
    file: FileIO,
    tensors: Mapping[str, StoredTensor],
    dtypes: Mapping[str, torch.dtype],
    on_bytes: OnBytes,
) -> None:
    """Write the tensors, in the type that ``dtypes`` has for each name, to an empty file.

    ``on_bytes`` is told of the tensors' bytes as they are written. Raises UserError where a
    tensor cannot be read, OSError where the file cannot be written.
    """
    type_names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Wide types first, so that each tensor begins at a multiple of its type's size.
    for name in sorted(tensors, key=lambda name: -dtypes[name].itemsize):
        shape = tensors[name].shape
        begin, end = end, end + math.prod(shape) * dtypes[name].itemsize
        type_name = type_names[dtypes[name]]
        header[name] = {"dtype": type_name, "shape": shape, "data_offsets": (begin, end)}
    table = json.dumps(header, ensure_ascii=False).encode()
    table += b" " * (-(8 + len(table)) % 64)
    placed = [
        PlacedTensor(tensor, dtypes[name], 8 + len(table) + int(header[name]["data_offsets"][0]))
        for name, tensor in tensors.items()
    ]
    copy_tensors(file, placed, on_bytes, checksums=False)
    write_at(file, 0, memoryview(len(table).to_bytes(8, "little") + table))
