"""Hugging Face's safetensors format: a table of contents in JSON, followed by the data."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from llama_cpu.checkpoint.stored import FileTensor, MappedFile, StoredTensor
from llama_cpu.errors import UserError

_HEADER_BYTES = 100_000_000  # the safetensors library has the same limit
DTYPES = {
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
    """Read the table of contents of a ``.safetensors`` file and return its tensors by name.

    Layout (safetensors README, "Format"): the number N as 8 little-endian bytes, N bytes of JSON,
    then the data to which ``data_offsets`` refer. The safetensors library is not used, because it
    does not provide the offset of a tensor in the file.

    Raises UserError if the file is damaged.
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


def _stored(file: MappedFile, data_start: int, name: str, entry: dict[str, Any]) -> FileTensor:
    shape = tuple(_whole(size) for size in entry["shape"])
    begin, end = (_whole(offset) for offset in entry["data_offsets"])
    if entry["dtype"] not in DTYPES:
        raise UserError(
            f"{file.path}: '{name[:80]}' has the type {str(entry['dtype'])[:20]!r}, which cannot "
            "be read."
        )
    dtype = DTYPES[entry["dtype"]]
    file.check_range(name, data_start + begin, end - begin)
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{name}: {shape} does not take {end - begin} bytes")
    return FileTensor(file, data_start + begin, shape, dtype)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value
