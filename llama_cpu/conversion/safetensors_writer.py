"""Writing of safetensors files block by block."""

import json
import math
from collections.abc import Mapping
from io import FileIO
from typing import Any

import torch

from llama_cpu.checkpoint.safetensors import DTYPES
from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.conversion.block_copy import OnBytes, PlacedTensor, copy_tensors
from llama_cpu.system.file_io import write_at


def write_safetensors(
    file: FileIO,
    tensors: Mapping[str, StoredTensor],
    dtypes: Mapping[str, torch.dtype],
    on_bytes: OnBytes,
) -> None:
    """Write the tensors to an empty file, each in its dtype of ``dtypes``.

    ``on_bytes`` is called with the number of bytes of each block written. Raises UserError if a
    tensor cannot be read, OSError if the file cannot be written.
    """
    type_names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Large dtypes first, so that the offset of each tensor is a multiple of its item size.
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
