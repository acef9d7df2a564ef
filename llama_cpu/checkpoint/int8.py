"""Int8 matrices in files: ``NAME``, int8 [out, in], with ``NAME_scale``, float32 [out]."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_cpu.checkpoint.stored import StoredTensor, in_row_chunks
from llama_cpu.errors import UserError

SCALE_SUFFIX = "_scale"


@dataclass(frozen=True)
class Int8Tensor:
    """A matrix whose row i is ``values[i] * scale[i]``."""

    values: StoredTensor
    scale: StoredTensor
    path: Path
    name: str  # name of the scale

    kind = "int8"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> torch.dtype | None:
        return None

    def mapped(self) -> Tensor | None:
        return None

    def read(self, values: Tensor, scale: Tensor) -> None:
        """Fill int8 ``values`` [out, in] and float32 ``scale`` [out] without conversion.

        Raises UserError if a scale is negative or not finite.
        """
        self.values.fill(values)
        self.read_scale(scale)

    def read_scale(self, scale: Tensor) -> None:
        """Fill float32 ``scale`` [out]. Raises UserError as ``read`` does."""
        self.scale.fill(scale)
        if not bool((scale >= 0).logical_and(scale.isfinite()).all()):
            raise UserError(
                f"{self.path}: '{self.name}' holds a scale that is negative, infinite or not a "
                "number; write this file again with merge_weights.py --int8."
            )

    def fill(self, target: Tensor) -> None:
        def widen(first: int, last: int) -> None:
            values = torch.empty(last - first, self.shape[1], dtype=torch.int8)
            scale = torch.empty(last - first)
            self.rows(first, last).read(values, scale)
            target[first:last].copy_(values.float().mul_(scale.unsqueeze(1)))

        in_row_chunks(self.shape[0], 4 * self.shape[1], widen)

    def rows(self, first: int, last: int) -> "Int8Tensor":
        values, scale = self.values.rows(first, last), self.scale.rows(first, last)
        return Int8Tensor(values, scale, self.path, self.name)


def pair_with_scales(tensors: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """Return the tensors with each int8 matrix and its scale joined into one Int8Tensor.

    Raises UserError, naming the tensor, if one of the two is missing or has the wrong shape or
    dtype. The scales themselves are read later, with their matrices.
    """
    paired: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        matrix = tensors.get(name.removesuffix(SCALE_SUFFIX))
        if name.endswith(SCALE_SUFFIX):
            if matrix is None or not _is_int8_matrix(matrix):
                raise _damaged(path, name, "belongs to no int8 matrix")
        elif _is_int8_matrix(tensor):
            paired[name] = _pair(tensor, tensors.get(name + SCALE_SUFFIX), path, name)
        else:
            paired[name] = tensor
    return paired


def _is_int8_matrix(tensor: StoredTensor) -> bool:
    return tensor.dtype == torch.int8 and len(tensor.shape) == 2


def _pair(values: StoredTensor, scale: StoredTensor | None, path: Path, name: str) -> Int8Tensor:
    if scale is None:
        raise _damaged(path, name, f"is int8, but '{(name + SCALE_SUFFIX)[:80]}' is missing")
    if scale.dtype != torch.float32 or scale.shape != values.shape[:1]:
        raise _damaged(
            path,
            name + SCALE_SUFFIX,
            f"is not {values.shape[0]} float32 numbers, one for each row of its matrix",
        )
    return Int8Tensor(values, scale, path, name + SCALE_SUFFIX)


def _damaged(path: Path, name: str, what: str) -> UserError:
    return UserError(
        f"{path}: the tensor '{name[:80]}' {what}; get a complete copy of this file, or write it "
        "again with merge_weights.py --int8."
    )
