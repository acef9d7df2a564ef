"""Products with ggml's Q8_0 (ggml-common.h, block_q8_0): a float16 scale and 32 int8."""

import numpy as np

from llama_cpu.kernels.products import multiply_pairs, widen_pairs
from llama_cpu.kernels.simd import (
    broadcast_pair,
    compiled,
    f16_pair,
    join,
    load_16_bytes,
    signed_dot_twice,
)

SIZE = 34  # bytes of a block


@compiled
def _unpack(block, following):
    first = join(load_16_bytes(block + 2), load_16_bytes(following + 2))
    return first, join(load_16_bytes(block + 18), load_16_bytes(following + 18))


@compiled
def _scales(block, following):
    return f16_pair(block, following), broadcast_pair(np.float32(0))


def multiply(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product (``products.py``)."""
    multiply_pairs(
        _unpack, _scales, signed_dot_twice, SIZE,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen(weight, output, first, last, columns):
    """Write the rows [first, last) as float32 [last - first, columns]."""
    widen_pairs(_unpack, _scales, SIZE, weight, output, first, last, columns)
