"""Int4 weights: reading, rounding and multiplying them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from llama_cpu.kernels.linear import KernelMatrix, quantize
from llama_cpu.weights import weight_format
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
from llama_cpu.weights.kernel_linear import float_matrix, widened_products
from llama_cpu.weights.operations import (
    FilePart,
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)

LAYERS, TABLES = "Q4_1", "Q8_0"  # the formats of layers, and of the embedding and the output
Int4Weight = BlockWeight | Tensor  # a Tensor is bfloat16: rows that have no whole blocks


def _convert(stored: Sequence[StoredMatrix], new: NewTensor, kind: str) -> Int4Weight:
    if stored[0].shape[1] % BLOCK:
        return stacked(stored, new, torch.bfloat16)
    return quantized_blocks(stored, new, kind)


def _matrix(weight: Int4Weight) -> KernelMatrix:
    return weight.matrix if isinstance(weight, BlockWeight) else float_matrix(weight)


def _mappable(stored: StoredMatrix) -> StoredMatrix | None:
    known = known_blocks(stored)
    return mappable_blocks(stored) if known and known.kind in (LAYERS, TABLES) else None


def _kind(name: str, stored: StoredMatrix) -> str:
    known = known_blocks(stored)
    if known is not None and known.kind in (LAYERS, TABLES):
        return known.kind
    if stored.shape[1] % BLOCK:
        return "BF16"
    return TABLES if name in weight_format.TABLES else LAYERS


def _output_product(choice: ProductChoice[Int4Weight], tied: bool) -> Product[Int4Weight]:
    return choice.product


def _part(kind: str) -> FilePart:
    """Return the tensor that stores a matrix in a file: its blocks, named after their format."""

    def stored(matrix: object) -> object | None:
        known = known_blocks(matrix)
        return known.blocks() if known and known.kind == kind else None

    return FilePart(
        suffix=f"_{kind.lower()}",
        dtype=torch.uint8,
        shape=lambda shape: (shape[0], shape[1] // BLOCK * BLOCK_BYTES[kind]),
        fill=lambda rows, target: quantize(kind, rows, target),
        stored=stored,
    )


OPERATIONS: Operations[Int4Weight] = Operations(
    products=tuple(widened_products(_matrix)),
    mappable=_mappable,
    from_mapped=from_blocks,
    convert=partial(_convert, kind=LAYERS),
    convert_table=partial(_convert, kind=TABLES),
    output_product=_output_product,
    kind_of=_kind,
    widens_by_kernels=True,
    make_output=lambda weight, product: product.make(weight),
    file_dtype=torch.float32,
    file_parts=(_part(LAYERS),),
    table_file_parts=(_part(TABLES),),
)
