"""PyTorch's files (``.pth``, ``.bin``): a zip that contains a pickle, whose code is never run."""

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from llama_cpu.checkpoint.stored import FileTensor, MappedFile, MemoryTensor, StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.system import torch_private
from llama_cpu.system.memory import available_memory
from llama_cpu.system.text import human_bytes

_PICKLE_BYTES = 8 << 20  # the 723 tensors of LLaMA 65B take 150 kB
_LEGACY_PICKLES = 5  # magic number, version, system, tensors, keys; then the data
# The functions that a table of contents may call. torch.load with weights_only has its own list;
# this one is shorter (no bytearray(10**12)) and does not depend on torch's version.
_HARMLESS = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch(\.storage)? (\w+Storage|b?float\w+|u?int\d+|bool)"
)


def read_pth(path: Path) -> dict[str, StoredTensor]:
    """Read the table of contents of a ``torch.save`` file and return its tensors by name.

    Files in the format used before PyTorch 1.6 are not zip files. They cannot be mapped, so their
    data is read into memory at once, with a warning.

    Raises UserError if the file is damaged or contains anything but tensors.
    """
    file = MappedFile(path)
    if file.bytes[:4] != b"PK\x03\x04":
        return _read_legacy(file)
    _check_calls(BytesIO(_table_of_contents(file)), path)
    # Fake tensors have a shape and, in their storage, an offset into the file, but no data (see
    # "FakeTensorMode" in the documentation of torch.load).
    with torch_private.fake_tensors():
        tensors = _load(path)
    return {name: _stored(file, name, tensor) for name, tensor in tensors.items()}


def _read_legacy(file: MappedFile) -> dict[str, StoredTensor]:
    stream = BytesIO(file.bytes[:_PICKLE_BYTES])
    for _ in range(_LEGACY_PICKLES):
        _check_calls(stream, file.path)
    free = available_memory()
    if file.size > free:
        raise UserError(
            f"{file.path} is in PyTorch's format of before 1.6 and has to be read whole, but only "
            f"{human_bytes(free)} are free; load and save it again with a newer PyTorch."
        )
    tensors = _load(file.path)
    warnings.warn(
        f"{file.path} is in PyTorch's format of before 1.6, which cannot be mapped: it is read "
        "whole.",
        stacklevel=1,
    )
    return {name: MemoryTensor(tensor) for name, tensor in tensors.items()}


def _table_of_contents(file: MappedFile) -> bytes:
    """Return the pickle in the zip file.

    Raises UserError unless the file has the form that torch.save writes: one pickle of a plausible
    size, and no compressed records, which could expand without limit.
    """
    try:
        with zipfile.ZipFile(file.path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise _damaged(file.path) from error
    pickles = [record for record in records if record.filename.endswith("data.pkl")]
    compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if compressed or len(pickles) != 1 or pickles[0].file_size > _PICKLE_BYTES:
        raise UserError(f"{file.path} was not written by torch.save; it is not a checkpoint.")
    # zipfile would refuse files that were saved without checksums. A record consists of a header of
    # 30 bytes, a name, an extra field and the data. The header ends with the lengths of the name
    # and the extra field.
    header, size = pickles[0].header_offset, pickles[0].file_size
    file.check_range("data.pkl", header, 30)
    name_length, extra_length = struct.unpack_from("<HH", file.bytes, header + 26)
    start = header + 30 + name_length + extra_length
    file.check_range("data.pkl", start, size)
    return file.bytes[start : start + size]


def _check_calls(stream: BytesIO, path: Path) -> None:
    """Raise UserError if the next pickle in the stream calls anything but tensor constructors.

    pickletools lists the instructions without running them.
    """
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            # STACK_GLOBAL has no argument. torch.save never writes it, so it is refused.
            calls = opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL")
            if calls and not _HARMLESS.fullmatch(str(argument)):
                wanted = str(argument or "a function")[:60]
                raise UserError(
                    f"{path} wants to run code (it calls {wanted}) and was not opened; get the "
                    "weights from a source you trust."
                )
    except (ValueError, IndexError, EOFError, MemoryError, OverflowError) as error:
        raise _damaged(path) from error


def _load(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a plain file of weights: it wants to run code or is damaged, and was "
            "not opened; get it from a source you trust."
        ) from error
    except Exception as error:  # with a damaged file, torch's unpickler may raise anything
        raise _damaged(path) from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no named tensors; it is not a checkpoint.")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {str(name)[:80]!r} is not a tensor; this is not a model's checkpoint."
            )
    return values


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is truncated or damaged and cannot be read; get a complete copy of this file."
    )


def _stored(file: MappedFile, name: str, tensor: Tensor) -> StoredTensor:
    storage = tensor.untyped_storage()
    storage_start, storage_bytes = torch_private.offset_in_file(storage), storage.nbytes()
    if storage_start is None:
        raise UserError(
            f"{file.path}: '{name[:80]}' has no data; get a complete copy of this file."
        )
    file.check_range(name, storage_start, storage_bytes)
    # Strides of 0 would make a tensor larger than its storage.
    if int(tensor.numel()) * tensor.itemsize > storage_bytes:
        raise _damaged(file.path)
    if not tensor.is_contiguous():
        whole = file.tensor(storage_start, (storage_bytes // tensor.itemsize,), tensor.dtype)
        view = whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return MemoryTensor(view)
    start = storage_start + int(tensor.storage_offset()) * tensor.itemsize
    file.check_range(name, start, int(tensor.numel()) * tensor.itemsize)
    return FileTensor(file, start, tuple(tensor.shape), tensor.dtype)
