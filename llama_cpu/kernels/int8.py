"""Products with int8 weights that have one float32 scale per row; inputs are not rounded.

``weight`` is the address of two addresses: of the values, int8 [out, columns], and of the scales,
float32 [out].
"""

from llama_cpu.kernels.products import multiply_floats, widen_floats
from llama_cpu.kernels.simd import compiled, f32_at, i8_at, i64_at, load_i8


@compiled
def _scale(scales, row):
    return f32_at(scales + 4 * row)


def multiply(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product (``products.py``)."""
    values, scales = i64_at(weight), i64_at(weight + 8)
    multiply_floats(
        load_i8, i8_at, 1, _scale, scales,
        values, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen(weight, output, first, last, columns):
    """Write the rows [first, last) as float32 [last - first, columns]."""
    values, scales = i64_at(weight), i64_at(weight + 8)
    widen_floats(load_i8, i8_at, 1, _scale, scales, values, output, first, last, columns)
