"""The weight format "file": every matrix is multiplied as it is in the file.

Blocks of ggml's quantized formats, float16, bfloat16 and float32 are used without conversion,
memory-mapped if possible. What no kernel multiplies is rounded to Q8_0, or widened from float64.
"""

from typing import TYPE_CHECKING, Any

from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:
    from llama_cpu.weights.operations import Operations


def _operations() -> "Operations[Any]":
    from llama_cpu.weights.as_is_linear import OPERATIONS

    return OPERATIONS


def _stored_bytes(stored: Any) -> int:
    from llama_cpu.weights.as_is_linear import stored_bytes

    return stored_bytes(stored)


AS_IS = WeightFormat(
    label="file",
    switch="--as_is",
    help="keep the weights as they are in the file (the default for quantized GGUF files)",
    merge_switch="",
    merge_help="",
    can_be_split=True,
    matrix_bytes=lambda rows, columns: 4 * rows * columns,  # if nothing is known of the file
    stored_bytes=_stored_bytes,
    cache_type="bfloat16",
    load_operations=_operations,
)
