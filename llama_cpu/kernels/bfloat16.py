"""Products with bfloat16 weights [out, columns]; inputs and sums are float32."""

from llama_cpu.kernels.float32 import no_scale
from llama_cpu.kernels.products import multiply_floats, widen_floats
from llama_cpu.kernels.simd import bf16_at, load_bf16


def multiply(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product (``products.py``)."""
    multiply_floats(
        load_bf16, bf16_at, 2, no_scale, 0,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen(weight, output, first, last, columns):
    """Write the rows [first, last) as float32 [last - first, columns]."""
    widen_floats(load_bf16, bf16_at, 2, no_scale, 0, weight, output, first, last, columns)
