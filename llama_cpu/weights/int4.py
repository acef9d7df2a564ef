"""The weight format int4: 4 bits per weight, with a scale and an offset for each 32 of a row.

The blocks are those of ggml's Q4_1 (5 bits per weight in all). The embedding and the output matrix
are kept in Q8_0 (8.5 bits), because rounding the output to 4 bits costs more than that of any
layer.
"""

from typing import TYPE_CHECKING, Any

from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:
    from llama_cpu.weights.operations import Operations


def _operations() -> "Operations[Any]":
    from llama_cpu.weights.int4_linear import OPERATIONS

    return OPERATIONS


def _in_blocks(rows: int, columns: int, block_bytes: int) -> int:
    """Return the size of a matrix in blocks of 32; rows that have no whole blocks are bfloat16."""
    return 2 * rows * columns if columns % 32 else rows * (columns // 32) * block_bytes


INT4 = WeightFormat(
    label="int4",
    switch="--int4",
    help="round the weights to 4 bits: a sixth of the memory, and the fastest answers",
    merge_switch="--int4",
    merge_help="write matrices in 4 bits, with a scale and an offset for each 32 weights of a row",
    can_be_split=False,
    matrix_bytes=lambda rows, columns: _in_blocks(rows, columns, 20),
    table_bytes=lambda rows, columns: _in_blocks(rows, columns, 34),
    cache_type="bfloat16",
    load_operations=_operations,
)
