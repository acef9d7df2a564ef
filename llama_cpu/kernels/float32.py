"""Products with float32 weights [out, columns]."""

import numpy as np

from llama_cpu.kernels.products import multiply_floats
from llama_cpu.kernels.simd import compiled, f32_at, load_f32


@compiled
def no_scale(scales, row):
    """Return the factor of a row of weights that have no scales."""
    return np.float32(1)


def multiply(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product (``products.py``)."""
    multiply_floats(
        load_f32, f32_at, 4, no_scale, 0,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip
