"""The weight format int8: one byte per weight and one float32 scale per row of a matrix."""

from typing import TYPE_CHECKING

from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:
    from llama_cpu.weights.int8_rows import Int8Weight
    from llama_cpu.weights.operations import Operations


def _operations() -> "Operations[Int8Weight]":
    from llama_cpu.weights.int8_linear import OPERATIONS

    return OPERATIONS


INT8 = WeightFormat(
    label="int8",
    switch="--int8",
    help="round the weights to 8 bits: a quarter of the memory, and the fastest",
    merge_switch="--int8",
    merge_help="write matrices in int8, with a scale for each row",
    can_be_split=False,
    matrix_bytes=lambda rows, columns: rows * columns + 4 * rows,
    cache_type="bfloat16",
    load_operations=_operations,
)
