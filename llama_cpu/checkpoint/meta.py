"""Meta's layout of LLaMA: ``params.json`` and weights in one file or in several shards.

The weights are ``merged.pth``, ``consolidated.NN.pth`` or ``model.safetensors``.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_cpu.checkpoint.base import Checkpoint, check_tensors
from llama_cpu.checkpoint.int4 import in_blocks
from llama_cpu.checkpoint.int8 import pair_with_scales
from llama_cpu.checkpoint.pth import read_pth
from llama_cpu.checkpoint.safetensors import read_safetensors
from llama_cpu.checkpoint.sharding import embedding_dimension_of_shard, split_dimension
from llama_cpu.checkpoint.stored import JoinedTensor, StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.model.llama import config_from_meta
from llama_cpu.system.fields import Fields
from llama_cpu.system.safe_reading import read_json

PthReader = Callable[[Path], dict[str, StoredTensor]]
_SAMPLED_TENSORS = 16  # of each shard, to notice that two shards are the same


def open_meta(folder: Path, read: PthReader = read_pth) -> Checkpoint:
    """Open a folder in Meta's layout. Raises UserError if it cannot be used.

    ``merged.pth`` takes precedence over shards, and shards over ``model.safetensors``. Shards are
    joined when they are read.
    """
    if (folder / "merged.pth").exists():
        return _checkpoint(folder, read(folder / "merged.pth"), "merged.pth")
    if not _numbered_shards(folder) and (folder / "model.safetensors").exists():
        tensors = read_safetensors(folder / "model.safetensors")
        return _checkpoint(folder, tensors, "model.safetensors")
    return open_shards(folder, read)


def open_shards(folder: Path, read: PthReader = read_pth) -> Checkpoint:
    """Open the shards ``consolidated.NN.pth`` even if there are merged files. Raises UserError."""
    files = find_shards(folder)
    dim = _dim(folder)
    tensors = join_shards([read(file) for file in files], files, dim)
    return _checkpoint(folder, tensors, files[0].name if len(files) == 1 else "")


def _checkpoint(folder: Path, tensors: dict[str, StoredTensor], file_name: str) -> Checkpoint:
    """Build the checkpoint; ``file_name`` is empty if the tensors are in several files."""
    file = folder / file_name
    tensors = in_blocks(pair_with_scales(_without_buffers(tensors), file), file)
    params_file = folder / "params.json"
    params = read_json(params_file)
    config = config_from_meta(
        params,
        params_file,
        hidden_dim=_rows(tensors, "layers.0.feed_forward.w1.weight", folder),
        vocab_size=_vocab_size(params, params_file, tensors),
        tied_output="output.weight" not in tensors,
    )
    check_tensors(config, tensors, folder)
    return Checkpoint(folder, folder.resolve().name, config, tensors)


def find_shards(folder: Path) -> list[Path]:
    """List ``consolidated.00.pth``, 01 and so on. Raises UserError if one is missing."""
    numbered = _numbered_shards(folder)
    if not numbered:
        raise UserError(f"{folder} holds no weights: consolidated.00.pth and so on are missing.")
    for number in range(max(numbered) + 1):
        if number not in numbered:
            raise UserError(
                f"{folder} lacks the shard consolidated.{number:02d}.pth though a later one is "
                "there; get the missing file."
            )
    return [numbered[number] for number in sorted(numbered)]


def _numbered_shards(folder: Path) -> dict[int, Path]:
    numbered = {}
    for file in folder.glob("consolidated.*.pth"):
        if match := re.fullmatch(r"consolidated\.(\d{1,4})\.pth", file.name):
            numbered[int(match[1])] = file
    return numbered


def _dim(folder: Path) -> int:
    params_file = folder / "params.json"
    return Fields(read_json(params_file), params_file).integer("dim", 1, 1 << 20)


def join_shards(
    shards: list[dict[str, StoredTensor]], files: list[Path], dim: int
) -> dict[str, StoredTensor]:
    """Join each tensor along the dimension that ``sharding.split_dimension`` returns.

    Raises UserError, naming the tensor, if the shards do not fit together.
    """
    shards = [_without_buffers(shard) for shard in shards]
    for shard, file in zip(shards, files, strict=True):
        odd = sorted(shard.keys() ^ shards[0].keys())
        if odd:
            raise UserError(
                f"{file} and {files[0].name} disagree: only one of them holds '{odd[0][:80]}'."
            )
    embedding = shards[0].get("tok_embeddings.weight")
    along = embedding_dimension_of_shard(embedding.shape if embedding else (), dim)
    joined = {
        name: _join(name, [shard[name] for shard in shards], files, along) for name in shards[0]
    }
    _refuse_equal_shards(joined, files)
    return joined


def _refuse_equal_shards(tensors: Mapping[str, StoredTensor], files: list[Path]) -> None:
    """Raise UserError if two shards are the same one. Their first rows are compared."""
    split = [tensor for tensor in tensors.values() if isinstance(tensor, JoinedTensor)]
    seen: dict[bytes, Path] = {}
    for number, file in enumerate(files if split else []):
        parts = [tensor.parts[number] for tensor in split[:_SAMPLED_TENSORS]]
        sample = b"".join(map(_first_row, parts))
        other = seen.setdefault(sample, file)
        if other is not file:
            raise UserError(
                f"{file} is the same shard as {other.name}; get the right one in its place."
            )


def _first_row(tensor: StoredTensor) -> bytes:
    row = _values(tensor.rows(0, min(1, tensor.shape[0])))
    return row.view(torch.uint8).numpy().tobytes()


def _values(tensor: StoredTensor) -> Tensor:
    values = torch.empty(tensor.shape, dtype=tensor.dtype)
    tensor.fill(values)
    return values


def _join(
    name: str, parts: list[StoredTensor], files: list[Path], embedding_dimension: int
) -> StoredTensor:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    try:
        along = split_dimension(name, embedding_dimension)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{files[0]}: the tensor '{name[:80]}' belongs to no LLaMA model that is known."
        ) from error
    for part, file in zip(parts, files, strict=True):
        if (
            part.shape != first.shape
            or part.dtype != first.dtype
            or len(part.shape) <= (along or 0)
        ):
            raise UserError(
                f"{file} and {files[0].name} disagree on the shape or type of '{name}': they are "
                "not shards of one model."
            )
        if along is None and not _equal(part, first):
            raise UserError(
                f"{file} and {files[0].name} hold different copies of '{name}': they are not "
                "shards of one model."
            )
    return first if along is None else JoinedTensor(tuple(parts), along)


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    # Compare bytes, so that NaN equals itself.
    return torch.equal(_values(one).view(torch.uint8), _values(other).view(torch.uint8))


def _without_buffers(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Drop ``rope.freqs``, which is computed and not learned."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rope.freqs")}


def _rows(tensors: Mapping[str, StoredTensor], name: str, folder: Path) -> int:
    if name not in tensors or not tensors[name].shape:
        raise UserError(
            f"{folder}: the tensor '{name}' is missing; get a complete copy of the model."
        )
    return tensors[name].shape[0]


def _vocab_size(
    params: Mapping[str, Any], params_file: Path, tensors: Mapping[str, StoredTensor]
) -> int:
    rows = _rows(tensors, "tok_embeddings.weight", params_file.parent)
    named = Fields(params, params_file).integer("vocab_size", -1, 1 << 24, default=-1)
    return named if named > 0 else rows  # check_tensors reports a difference
