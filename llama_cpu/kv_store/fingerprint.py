"""Identifies the weights of a checkpoint without reading all of them."""

import hashlib
import os
from pathlib import Path

import torch

from llama_cpu.checkpoint import Checkpoint
from llama_cpu.checkpoint.stored import StoredTensor


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hash the configuration, the files' properties, and three rows of each tensor.

    The properties of a file are its name, size and modification time.

    Changing a file in place changes its modification time. Another file of the same size and time
    differs in some of those rows, as training and merging change every matrix. A copied or touched
    file counts as another model, which only means that its KV caches are computed again.

    Must be called before the tensors are loaded. Raises OSError, and UserError as loading does.
    """
    digest = hashlib.sha256(repr(checkpoint.config).encode())
    for path in _files(checkpoint.path):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(**_NAMES))
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"{name}\0{tensor.shape}\0".encode())
        for part in _samples(tensor):
            values = torch.empty(part.shape)
            part.fill(values)
            digest.update(values.numpy().data)
    return digest.hexdigest()


_NAMES = {"errors": "surrogateescape"}  # file names need not be UTF-8


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(Path(entry.path) for entry in os.scandir(path) if entry.is_file())


def _samples(tensor: StoredTensor) -> list[StoredTensor]:
    rows = tensor.shape[0]
    if len(tensor.shape) == 1:
        return [tensor]
    return [tensor.rows(row, row + 1) for row in sorted({0, rows // 2, rows - 1})]
