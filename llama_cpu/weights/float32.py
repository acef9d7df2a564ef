"""The weight format float32: weights without rounding."""

from typing import TYPE_CHECKING

from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:
    from torch import Tensor

    from llama_cpu.weights.operations import Operations


def _operations() -> "Operations[Tensor]":
    from llama_cpu.weights.float32_linear import OPERATIONS

    return OPERATIONS


FLOAT32 = WeightFormat(
    label="float32",
    switch="--float32",
    help="keep weights and KV cache in float32 (the default, but for quantized GGUF files)",
    merge_switch="--fp32",
    merge_help="write float32",
    can_be_split=True,
    matrix_bytes=lambda rows, columns: 4 * rows * columns,
    cache_type="float32",
    load_operations=_operations,
)
