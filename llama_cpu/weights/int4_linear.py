"""Int4 weights: reading, rounding and multiplying them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from llama_cpu.kernels import compiler
from llama_cpu.kernels.linear import KernelMatrix, quantize
from llama_cpu.system.processor import physical_cores
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
from llama_cpu.weights.kernel_linear import (
    float_matrix,
    numba_needed,
    widened_products,
)
from llama_cpu.weights.operations import (
    FilePart,
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)
from llama_cpu.weights.tables import TABLES as TABLE_NAMES

LAYERS, TABLES = "Q4_1", "Q8_0"  # the formats of layers, and of the embedding and the output
# The greatest magnitude that is rounded: scales and offsets are float16, and those that fit best
# may lie somewhat outside the numbers' range.
_GREATEST = 32768
Int4Weight = BlockWeight | Tensor  # a Tensor is bfloat16: rows that have no whole blocks


def _convert(stored: Sequence[StoredMatrix], new: NewTensor, kind: str) -> Int4Weight:
    if stored[0].shape[1] % BLOCK:
        return stacked(stored, new, torch.bfloat16)
    return quantized_blocks(stored, new, kind)


def _matrix(weight: Int4Weight) -> KernelMatrix:
    return weight.matrix if isinstance(weight, BlockWeight) else float_matrix(weight)


def _mappable(stored: StoredMatrix) -> StoredMatrix | None:
    known = known_blocks(stored)
    if known is not None:
        return mappable_blocks(stored) if known.kind in (LAYERS, TABLES) else None
    is_kept = stored.shape[1] % BLOCK != 0 and stored.dtype == torch.bfloat16
    return stored if is_kept and stored.mapped() is not None else None


def _from_mapped(stored: StoredMatrix, values: Tensor, new: NewTensor) -> Int4Weight:
    return values if known_blocks(stored) is None else from_blocks(stored, values, new)


def _kind(name: str, stored: StoredMatrix) -> str:
    known = known_blocks(stored)
    if known is not None and known.kind in (LAYERS, TABLES):
        return known.kind
    if stored.shape[1] % BLOCK:
        return "BF16"
    return TABLES if name in TABLE_NAMES else LAYERS


def _output_product(choice: ProductChoice[Int4Weight], tied: bool) -> Product[Int4Weight]:
    return choice.product


def _part(kind: str) -> FilePart:
    """Return the tensor that stores a matrix in a file: its blocks, named after their format."""

    def fill(rows: Tensor, blocks: Tensor) -> None:
        _check_range(rows, _GREATEST)
        quantize(kind, rows, blocks, physical_cores())

    def stored(matrix: object) -> object | None:
        known = known_blocks(matrix)
        return known.blocks() if known and known.kind == kind else None

    return FilePart(
        suffix=f"_{kind.lower()}",
        dtype=torch.uint8,
        shape=lambda shape: (shape[0], shape[1] // BLOCK * BLOCK_BYTES[kind]),
        fill=fill,
        stored=stored,
    )


def _check_range(rows: Tensor, greatest: float) -> None:
    """Raise OverflowError unless all magnitudes are numbers up to ``greatest``."""
    if not bool(torch.maximum(rows.amax(), -rows.amin()) <= greatest):
        raise OverflowError


def _fill_floats(rows: Tensor, target: Tensor) -> None:
    _check_range(rows, torch.finfo(target.dtype).max)
    target.copy_(rows)


_LAYER_PARTS, _TABLE_PARTS = (_part(LAYERS),), (_part(TABLES),)
_FLOAT_PARTS = (
    FilePart(
        suffix="",
        dtype=torch.bfloat16,
        shape=lambda shape: shape,
        fill=_fill_floats,
        stored=lambda matrix: None,
    ),
)


def _parts_of(name: str, shape: tuple[int, ...]) -> tuple[FilePart, ...]:
    """Return the parts of a matrix in a file. Raises UserError if kernels cannot round it."""
    if not compiler.works():
        raise numba_needed("--int4")
    if shape[1] % BLOCK:
        return _FLOAT_PARTS
    return _TABLE_PARTS if name in TABLE_NAMES else _LAYER_PARTS


OPERATIONS: Operations[Int4Weight] = Operations(
    products=tuple(widened_products(_matrix)),
    mappable=_mappable,
    from_mapped=_from_mapped,
    convert=partial(_convert, kind=LAYERS),
    convert_table=partial(_convert, kind=TABLES),
    output_product=_output_product,
    kind_of=_kind,
    widens_by_kernels=True,
    make_output=lambda weight, product: product.make(weight),
    file_dtype=torch.float32,
    parts_of=_parts_of,
)
