"""Merging of shards into one file, and splitting of one file into shards.

No tensor is completely in memory: tensors are joined or cut while their rows are read in blocks.
``checkpoint/meta.py`` finds the shards and joins their tensors, because loading does so, too.
"""

import errno
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch

from llama_cpu.checkpoint.base import Checkpoint
from llama_cpu.checkpoint.pth import read_pth_with_torch
from llama_cpu.checkpoint.safetensors import read_safetensors
from llama_cpu.checkpoint.sharding import embedding_dimension_of_model, split_dimension
from llama_cpu.checkpoint.stored import JoinedTensor, StoredTensor, slice_tensor
from llama_cpu.conversion.block_copy import BLOCK_BYTES, OnBytes
from llama_cpu.conversion.pth_writer import WRITABLE, write_pth
from llama_cpu.conversion.quantizing import QuantizedPart
from llama_cpu.conversion.safetensors_writer import write_safetensors
from llama_cpu.errors import UserError
from llama_cpu.model.config import ModelConfig
from llama_cpu.system.atomic_files import AtomicFiles
from llama_cpu.system.file_io import forget_cached, write_at
from llama_cpu.system.safe_reading import reason

Tensors = Mapping[str, StoredTensor]

_HEADER_BYTES = 4096  # upper bound per tensor for padding and entries in the tables of a file


@dataclass(frozen=True)
class Written:
    """The size of the written files and the time it took to write them."""

    size: int  # bytes of all tensors
    seconds: float  # time to write
    sync_seconds: float  # time to sync the files to the disk afterwards


def split(checkpoint: Checkpoint, count: int) -> dict[str, Tensors]:
    """Split a checkpoint into ``count`` shards and return their tensors by file name.

    The embedding is split as in Meta's files: along the vocabulary in Llama 3, along the model's
    width in others. Raises UserError if a dimension or the heads cannot be divided by ``count``.
    """
    _check_heads(checkpoint.config, count)
    embedding = embedding_dimension_of_model(checkpoint.config)
    shards: dict[str, dict[str, StoredTensor]] = {}
    for rank in range(count):
        shards[f"consolidated.{rank:02d}.pth"] = {
            name: _slice(name, tensor, split_dimension(name, embedding), rank, count)
            for name, tensor in checkpoint.tensors.items()
        }
    return dict(shards)


def _check_heads(config: ModelConfig, count: int) -> None:
    """Raise UserError if a head would be cut, which divisible numbers of rows do not exclude."""
    for what, heads in (("heads", config.n_heads), ("key-value heads", config.n_kv_heads)):
        if heads % count:
            raise UserError(
                f"The model has {heads} {what if heads > 1 else what[:-1]}, which {count} shards "
                "cannot share evenly; choose another number for --split."
            )


def _slice(
    name: str, tensor: StoredTensor, along: int | None, rank: int, count: int
) -> StoredTensor:
    if along is None or count == 1:
        return tensor
    length, rest = divmod(tensor.shape[along], count)
    if rest:
        raise UserError(
            f"The tensor '{name}' has {tensor.shape[along]} "
            f"{'rows' if along == 0 else 'columns'}, which {count} shards cannot share evenly; "
            "choose another number for --split."
        )
    return slice_tensor(tensor, along, rank * length, length)


def write_model(
    files: Mapping[str, Tensors],
    params: bytes,
    folder: Path,
    dtype: torch.dtype | None,
    on_bytes: OnBytes,
    read_again: Callable[[], Mapping[str, Tensors]] | None = None,
) -> Written:
    """Write ``files`` (tensors by file name, .pth or .safetensors) and ``params.json``.

    ``dtype``: None keeps the dtype of each tensor; quantised values always keep theirs. The files
    appear in ``folder`` once all of them are complete and synced. Until then, and if this fails,
    the previous files stay. If ``read_again`` is given, it is called after writing, for instance to
    read ``files`` from their sources by other means, and the files must hold what it returns before
    they appear.

    Raises UserError if the disk is full, the folder is not writable, a source is damaged, or the
    comparison fails.
    """
    size = sum(total_bytes(tensors, dtype) for tensors in files.values())
    with _explained(folder), AtomicFiles(folder) as atomic_files:
        _check_free_space(folder, atomic_files.free_bytes(), size, sum(map(len, files.values())))
        opened = {name: atomic_files.open(name) for name in files}
        # If params.json stays the same, a single file of weights is published alone, which is
        # atomic. Otherwise params.json is published last: without it the model cannot be loaded.
        if len(files) > 1 or not _holds(folder / "params.json", params):
            write_at(atomic_files.open("params.json"), 0, memoryview(params))
        start = time.perf_counter()
        for name, tensors in files.items():
            write = write_safetensors if name.endswith(".safetensors") else write_pth
            write(opened[name], tensors, _dtypes(tensors, dtype), on_bytes)
        written = time.perf_counter()
        atomic_files.sync()
        synced = time.perf_counter()
        if read_again is not None:
            for name, tensors in read_again().items():
                _verify(opened[name], name, tensors, _dtypes(tensors, dtype), on_bytes)
        atomic_files.publish()
    return Written(size, written - start, synced - written)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _dtypes(tensors: Tensors, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    dtypes = {}
    for name, tensor in tensors.items():
        # Only ``quantized`` makes tensors of integers.
        is_integer = tensor.dtype is not None and not tensor.dtype.is_floating_point
        is_quantized = is_integer or isinstance(tensor, QuantizedPart)
        wanted = tensor.dtype if is_quantized else dtype or tensor.dtype
        if wanted not in WRITABLE:
            what = f"has the type {wanted}" if wanted else "is quantised"
            raise UserError(f"The tensor '{name}' {what}; try --bf16 or --fp32.")
        dtypes[name] = wanted
    return dtypes


def total_bytes(tensors: Tensors, dtype: torch.dtype | None) -> int:
    """Return the size of all values in ``dtype`` (None: their own dtypes). Raises UserError."""
    dtypes = _dtypes(tensors, dtype)
    return sum(math.prod(tensors[name].shape) * dtypes[name].itemsize for name in tensors)


def _check_free_space(folder: Path, free: int, size: int, tensor_count: int) -> None:
    needed = size + tensor_count * _HEADER_BYTES
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free but {needed / 1e9:.1f} GB will be written; "
            "make room or name another --output_dir."
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else reason(error)
        raise UserError(
            f"{folder} cannot be written to ({why}); what was there is unchanged. "
            "Put that right or name another --output_dir."
        ) from error


def _verify(
    file: FileIO, name: str, tensors: Tensors, dtypes: Mapping[str, torch.dtype], on_bytes: OnBytes
) -> None:
    """Compare the written file with its sources, shard by shard. Raises UserError.

    A .pth is read as ``torch.load`` reads it, not by the reader that the chat will use.
    """
    forget_cached(file)
    path = Path(str(file.name))
    read = read_safetensors if name.endswith(".safetensors") else read_pth_with_torch
    written = read(path)
    if written.keys() != tensors.keys():
        raise UserError(f"{name} reads back with other tensors than were written; run this again.")
    for tensor_name, source in tensors.items():
        for part, whole in _slices(written[tensor_name], source):
            if not _same(whole, part, dtypes[tensor_name], on_bytes):
                raise UserError(
                    f"{name} holds other values in '{tensor_name}' than PyTorch reads from the "
                    "input: the disk or the memory is not reliable, or the input was misread. "
                    "Nothing was changed."
                )


def _slices(
    written: StoredTensor, source: StoredTensor
) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    """Pair each shard of the source with its slice of the written tensor."""
    if not isinstance(source, JoinedTensor):
        yield source, written
        return
    start = 0
    for part in source.parts:
        length = part.shape[source.dim]
        yield part, slice_tensor(written, source.dim, start, length)
        start += length


def _same(
    written: StoredTensor, source: StoredTensor, dtype: torch.dtype, on_bytes: OnBytes
) -> bool:
    if written.shape != source.shape or written.dtype != dtype:
        return False
    row_bytes = math.prod(source.shape[1:]) * dtype.itemsize
    step = max(1, BLOCK_BYTES // row_bytes)
    for first in range(0, source.shape[0], step):
        last = min(first + step, source.shape[0])
        values = torch.empty(2, last - first, *source.shape[1:], dtype=dtype)
        written.rows(first, last).fill(values[0])
        source.rows(first, last).fill(values[1])
        # Compare bytes, so that NaN equals itself.
        if not torch.equal(values[0].view(torch.uint8), values[1].view(torch.uint8)):
            return False
        on_bytes((last - first) * row_bytes)
    return True
