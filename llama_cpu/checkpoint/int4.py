"""Int4 matrices in files: ``NAME_q4_1`` or ``NAME_q8_0``, uint8 [out, bytes of a row].

The bytes are blocks of 32 numbers in ggml's format of that name (``weights/int4.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_cpu.checkpoint.stored import StoredTensor, in_row_chunks
from llama_cpu.errors import UserError
from llama_cpu.weights.block_weight import BLOCK, BLOCK_BYTES

_KINDS = {f"_{kind.lower()}": kind for kind in BLOCK_BYTES}  # by the suffix of a tensor's name


@dataclass(frozen=True)
class BlockTensor:
    """A matrix whose rows are blocks of 32 numbers; ``kind`` is one of BLOCK_BYTES."""

    stored: StoredTensor  # uint8 [out, bytes of a row]
    kind: str

    @property
    def shape(self) -> tuple[int, ...]:
        rows, row_bytes = self.stored.shape
        return rows, row_bytes // BLOCK_BYTES[self.kind] * BLOCK

    @property
    def dtype(self) -> torch.dtype | None:
        return None

    def blocks(self) -> StoredTensor:
        """Return the blocks: uint8 [out, bytes of a row]."""
        return self.stored

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        import gguf  # only to convert from int4, which is rare

        row_bytes, kind = self.stored.shape[1], gguf.GGMLQuantizationType[self.kind]

        def widen(first: int, last: int) -> None:
            raw = torch.empty(last - first, row_bytes, dtype=torch.uint8)
            self.stored.rows(first, last).fill(raw)
            values = gguf.quants.dequantize(raw.numpy(), kind)
            target[first:last].copy_(torch.from_numpy(values))

        # Dequantizing makes several float32 copies of its input.
        in_row_chunks(self.shape[0], 16 * self.shape[1], widen)

    def rows(self, first: int, last: int) -> "BlockTensor":
        return BlockTensor(self.stored.rows(first, last), self.kind)


def in_blocks(tensors: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """Return the tensors with each ``NAME_q4_1`` and ``NAME_q8_0`` as the BlockTensor NAME.

    Raises UserError, naming the tensor, if it has the wrong shape or dtype, or if NAME is there
    twice.
    """
    result: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        suffix = next((suffix for suffix in _KINDS if name.endswith(suffix)), "")
        matrix = name.removesuffix(suffix)
        if matrix in result or (suffix and matrix in tensors):
            raise _damaged(path, name, f"holds the matrix '{matrix[:80]}', which is there twice")
        result[matrix] = _checked(tensor, _KINDS[suffix], path, name) if suffix else tensor
    return result


def _checked(blocks: StoredTensor, kind: str, path: Path, name: str) -> BlockTensor:
    is_matrix = blocks.dtype == torch.uint8 and len(blocks.shape) == 2
    if not is_matrix or blocks.shape[1] % BLOCK_BYTES[kind]:
        raise _damaged(
            path, name, f"is not a matrix of bytes in blocks of {BLOCK_BYTES[kind]} ({kind})"
        )
    return BlockTensor(blocks, kind)


def _damaged(path: Path, name: str, what: str) -> UserError:
    return UserError(
        f"{path}: the tensor '{name[:80]}' {what}; get a complete copy of this file, or write it "
        "again with merge_weights.py --int4."
    )
