"""The weight format bf16: bfloat16 weights, which take half the memory of float32."""

from typing import TYPE_CHECKING

from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:
    from torch import Tensor

    from llama_cpu.weights.operations import Operations


def _operations() -> "Operations[Tensor]":
    from llama_cpu.weights.bf16_linear import OPERATIONS

    return OPERATIONS


BF16 = WeightFormat(
    label="bf16",
    switch="--bf16",
    help="keep weights and KV cache in bfloat16: half the memory, and faster",
    merge_switch="--bf16",
    merge_help="write bfloat16",
    can_be_split=True,
    matrix_bytes=lambda rows, columns: 2 * rows * columns,
    cache_type="bfloat16",
    load_operations=_operations,
)
