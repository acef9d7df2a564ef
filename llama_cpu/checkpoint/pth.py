"""PyTorch's own file (``.pth``, ``.bin``): a zip with a pickle inside, of which no code is run."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llama_cpu.checkpoint.stored import FileTensor, MappedFile, MemoryTensor, StoredTensor
from llama_cpu.errors import UserError


def read_pth(path: Path) -> dict[str, StoredTensor]:
    """Tensors of a ``torch.save`` file by name; only its table of contents is read.

    A file in the format of before PyTorch 1.6 (not a zip) cannot be mapped and is read whole.

    Raises UserError where the file is damaged or holds anything but tensors.
    """
    file = MappedFile(path)
    if file.bytes[:4] != b"PK\x03\x04":
        warnings.warn(
            f"{path} is in PyTorch's format of before 1.6 and cannot be mapped: it is read whole.",
            stacklevel=1,
        )
        return {name: MemoryTensor(tensor) for name, tensor in _load(path).items()}
    # Fake tensors have shapes and, in their storage, the offset into the file, but no data
    # (torch.load's documentation, "FakeTensorMode").
    with FakeTensorMode():
        tensors = _load(path)
    return {name: _stored(file, name, tensor) for name, tensor in tensors.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a plain file of weights: it wants to run code or is damaged, and was "
            "not opened; get it from a source you trust."
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path} is truncated or damaged and cannot be read; get a complete copy of this file."
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no named tensors; it is not a checkpoint.")
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if len(tensors) < len(values):
        odd = next(name for name in values if name not in tensors)
        raise UserError(
            f"{path}: {str(odd)[:80]!r} is not a tensor; this is not a model's checkpoint."
        )
    return tensors


def _stored(file: MappedFile, name: str, tensor: Tensor) -> StoredTensor:
    storage = tensor.untyped_storage()
    storage_start, storage_bytes = storage._checkpoint_offset, storage.nbytes()
    if storage_start is None:
        raise UserError(
            f"{file.path}: '{name[:80]}' has no data; get a complete copy of this file."
        )
    file.check_range(name, storage_start, storage_bytes)
    if not tensor.is_contiguous():
        whole = file.tensor(storage_start, (storage_bytes // tensor.itemsize,), tensor.dtype)
        view = whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return MemoryTensor(view)
    start = storage_start + int(tensor.storage_offset()) * tensor.itemsize
    file.check_range(name, start, int(tensor.numel()) * tensor.itemsize)
    return FileTensor(file, start, tuple(tensor.shape), tensor.dtype)
