"""Weights as they are in the file: mapping, reading and multiplying them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llama_cpu.kernels.linear import KernelMatrix
from llama_cpu.weights.block_weight import (
    BLOCK,
    BLOCK_BYTES,
    BlockWeight,
    from_blocks,
    known_blocks,
    mappable_blocks,
    quantized_blocks,
)
from llama_cpu.weights.float32_linear import stacked
from llama_cpu.weights.kernel_linear import KINDS, float_matrix, widened_products
from llama_cpu.weights.operations import (
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
StoredWeight = BlockWeight | Tensor


def stored_bytes(stored: StoredMatrix) -> int:
    """Return the size in memory of a matrix that is kept as it is in the file."""
    known = known_blocks(stored)
    if known is not None:
        return math.prod(known.blocks().shape)
    values = math.prod(stored.shape)
    if stored.dtype is not None:
        return values * _dtype(stored).itemsize
    return 4 * values if stored.shape[1] % BLOCK else values // BLOCK * BLOCK_BYTES["Q8_0"]


def _dtype(stored: StoredMatrix) -> torch.dtype:
    return stored.dtype if stored.dtype in _FLOATS else torch.float32


def _kind(name: str, stored: StoredMatrix) -> str:
    known = known_blocks(stored)
    if known is not None:
        return known.kind
    rounds = stored.dtype is None and not stored.shape[1] % BLOCK
    return "Q8_0" if rounds else KINDS[_dtype(stored)]


def _mappable(stored: StoredMatrix) -> StoredMatrix | None:
    if known_blocks(stored) is not None:
        return mappable_blocks(stored)
    return stored if stored.dtype in _FLOATS and stored.mapped() is not None else None


def _from_mapped(stored: StoredMatrix, values: Tensor, new: NewTensor) -> StoredWeight:
    return from_blocks(stored, values, new) if known_blocks(stored) is not None else values


def _convert(stored: Sequence[StoredMatrix], new: NewTensor) -> StoredWeight:
    """Read one matrix that cannot be mapped, or that no kernel multiplies."""
    (matrix,) = stored
    known = known_blocks(matrix)
    if known is not None:
        blocks = known.blocks()
        values = new(blocks.shape, torch.uint8)
        blocks.fill(values)
        return BlockWeight(known.kind, values, matrix.shape[1])
    if matrix.dtype is not None or matrix.shape[1] % BLOCK:
        return stacked(stored, new, _dtype(matrix))
    return quantized_blocks(stored, new, "Q8_0")


def _matrix(weight: StoredWeight) -> KernelMatrix:
    return weight.matrix if isinstance(weight, BlockWeight) else float_matrix(weight)


def _output_product(choice: ProductChoice[StoredWeight], tied: bool) -> Product[StoredWeight]:
    return choice.product


OPERATIONS: Operations[StoredWeight] = Operations(
    products=tuple(widened_products(_matrix)),
    mappable=_mappable,
    from_mapped=_from_mapped,
    convert=_convert,
    stacks=False,  # matrices with the same input may have different formats
    output_product=_output_product,
    kind_of=_kind,
    widens_by_kernels=True,
    make_output=lambda weight, product: product.make(weight),
    file_dtype=torch.float32,
)
