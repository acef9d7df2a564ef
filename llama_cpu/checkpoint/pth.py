"""PyTorch's files (``.pth``, ``.bin``): a zip that contains a pickle, whose code is never run."""

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from llama_cpu.checkpoint.stored import FileTensor, MappedFile, MemoryTensor, StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.system import torch_private
from llama_cpu.system.memory import available_memory, total_memory
from llama_cpu.system.text import human_bytes

_LOCAL_HEADER = b"PK\x03\x04"  # a record of a zip file begins with it
_IS_UTF8 = 1 << 11  # the flag of a record whose name is in UTF-8
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
    if not _is_zip(file):
        return _read_legacy(file)
    archive = _Archive(file)
    table = archive.table_of_contents()
    _check_calls(BytesIO(table), path)
    tensors = _named_tensors(path, lambda: torch_private.tensors_of(table, archive.storage_start))
    return {name: _stored(file, name, tensor) for name, tensor in tensors.items()}


def read_pth_with_torch(path: Path) -> dict[str, StoredTensor]:
    """Read the tensors of a ``torch.save`` file as ``torch.load`` finds them, by name.

    This is the independent reading with which ``merge_weights.py --verify`` compares: it shares
    nothing with ``read_pth`` but the checks that no code is run. torch maps the file, which Linux
    refuses for a file larger than the memory; such a file is read by ``read_pth``, with a warning.

    Raises UserError as ``read_pth`` does.
    """
    read = read_pth(path)
    file = MappedFile(path)
    if not _is_zip(file):  # torch.load has read it
        return read
    if file.size > total_memory():
        warnings.warn(
            f"{path} is larger than the memory, so that PyTorch cannot map it: it is not compared "
            "with PyTorch's reading.",
            stacklevel=1,
        )
        return read
    tensors = _named_tensors(
        path, lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    )
    return {name: MemoryTensor(tensor) for name, tensor in tensors.items()}


def _is_zip(file: MappedFile) -> bool:
    return file.bytes[:4] == _LOCAL_HEADER


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
    tensors = _named_tensors(
        file.path, lambda: torch.load(file.path, map_location="cpu", weights_only=True)
    )
    warnings.warn(
        f"{file.path} is in PyTorch's format of before 1.6, which cannot be mapped: it is read "
        "whole.",
        stacklevel=1,
    )
    return {name: MemoryTensor(tensor) for name, tensor in tensors.items()}


class _Archive:
    """The zip file around the pickle and the storages, as its own headers describe it.

    A program that zips the file again moves the storages, so that no position may be computed.
    Raises UserError unless every record is stored without compression, which could expand without
    limit, and under one name only.
    """

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        try:
            with zipfile.ZipFile(file.path) as archive:
                records = archive.infolist()
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise _damaged(file.path) from error
        self._records = {record.orig_filename: record for record in records}
        pickles = [name for name in self._records if name.endswith("/data.pkl")]
        compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if compressed or len(self._records) != len(records) or len(pickles) != 1:
            raise self._foreign()
        self._folder = pickles[0].removesuffix("data.pkl")

    def table_of_contents(self) -> bytes:
        """Return the pickle."""
        order = self._records.get(f"{self._folder}byteorder")
        if order and self._data(order) != b"little":
            raise UserError(
                f"{self._file.path} was saved on a big-endian computer; load and save it with "
                "PyTorch first."
            )
        pickle_record = self._records[f"{self._folder}data.pkl"]
        if pickle_record.file_size > _PICKLE_BYTES:
            raise self._foreign()
        return self._data(pickle_record)

    def storage_start(self, key: str, nbytes: int) -> int:
        """Return the position in the file of the storage ``key``, which has ``nbytes`` bytes."""
        record = self._records.get(f"{self._folder}data/{key}")
        if record is None or not 0 <= nbytes <= record.file_size:
            raise _damaged(self._file.path)
        return self._start(record)

    def _data(self, record: zipfile.ZipInfo) -> bytes:
        # zipfile would refuse files that were saved without checksums.
        start = self._start(record)
        return self._file.bytes[start : start + record.file_size]

    def _start(self, record: zipfile.ZipInfo) -> int:
        """Return where a record's data begins, which only its local header says.

        A record consists of a header of 30 bytes, its name, an extra field and the data. The header
        has the method of compression at byte 8, and ends with the lengths of the name and of the
        extra field (PKWARE, APPNOTE.TXT, 4.3.7).
        """
        file, header = self._file, record.header_offset
        file.check_range(record.filename, header, 30)
        method, name_bytes, extra_bytes = struct.unpack_from("<8xH16xHH", file.bytes, header)
        name = record.orig_filename.encode("utf-8" if record.flag_bits & _IS_UTF8 else "cp437")
        named = file.bytes[header + 30 : header + 30 + name_bytes]
        begins = file.bytes[header : header + 4]
        if begins != _LOCAL_HEADER or named != name or method != zipfile.ZIP_STORED:
            raise _damaged(file.path)
        start = header + 30 + int(name_bytes) + int(extra_bytes)
        file.check_range(record.filename, start, record.file_size)
        return start

    def _foreign(self) -> UserError:
        return UserError(
            f"{self._file.path} was not written by torch.save; it is not a checkpoint."
        )


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


def _named_tensors(path: Path, load: Callable[[], object]) -> dict[str, Tensor]:
    """Call ``load`` and return its tensors. Raises UserError if it fails or returns others."""
    try:
        values = load()
    except UserError:
        raise
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
    storage_start, storage_bytes = torch_private.position_in_file(storage), storage.nbytes()
    count, itemsize, first = int(tensor.numel()), tensor.itemsize, int(tensor.storage_offset())
    # Strides of 0 would make a tensor larger than its storage.
    if tensor.is_neg() or tensor.is_conj() or count * itemsize > storage_bytes:
        raise _damaged(file.path)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = first + sum((length - 1) * step for length, step in steps)
    if count and not 0 <= first <= last < storage_bytes // itemsize:
        raise _damaged(file.path)
    if not tensor.is_contiguous():
        whole = file.tensor(storage_start, (storage_bytes // itemsize,), tensor.dtype)
        return MemoryTensor(whole.as_strided(tensor.shape, tensor.stride(), first))
    start = storage_start + first * itemsize
    file.check_range(name, start, count * itemsize)
    return FileTensor(file, start, tuple(tensor.shape), tensor.dtype)
