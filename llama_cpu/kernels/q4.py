"""Products with ggml's Q4_0 and Q4_1 (ggml-common.h, block_q4_0 and block_q4_1).

A block of 32 numbers is a float16 scale, in Q4_1 a float16 offset, and 16 bytes with number j in
the low and number j + 16 in the high bits of byte j. Q4_0's numbers are scale * (bits - 8), Q4_1's
are scale * bits + offset.
"""

import numpy as np

from llama_cpu.kernels.products import multiply_pairs, widen_pairs
from llama_cpu.kernels.simd import (
    broadcast_pair,
    compiled,
    dot_twice,
    f16_pair,
    high_nibbles,
    join,
    load_16_bytes,
    low_nibbles,
)

SIZE_0, SIZE_1 = 18, 20  # bytes of a block


@compiled
def _unpack_0(block, following):
    both = join(load_16_bytes(block + 2), load_16_bytes(following + 2))
    return low_nibbles(both), high_nibbles(both)


@compiled
def _scales_0(block, following):
    step = f16_pair(block, following)
    return step, step * broadcast_pair(np.float32(-8))


@compiled
def _unpack_1(block, following):
    both = join(load_16_bytes(block + 4), load_16_bytes(following + 4))
    return low_nibbles(both), high_nibbles(both)


@compiled
def _scales_1(block, following):
    return f16_pair(block, following), f16_pair(block + 2, following + 2)


def multiply_0(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q4_0 (``products.py``)."""
    multiply_pairs(
        _unpack_0, _scales_0, dot_twice, SIZE_0,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def multiply_1(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q4_1."""
    multiply_pairs(
        _unpack_1, _scales_1, dot_twice, SIZE_1,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen_0(weight, output, first, last, columns):
    """Write the rows [first, last) of Q4_0 as float32 [last - first, columns]."""
    widen_pairs(_unpack_0, _scales_0, SIZE_0, weight, output, first, last, columns)


def widen_1(weight, output, first, last, columns):
    """Write the rows [first, last) of Q4_1 as float32 [last - first, columns]."""
    widen_pairs(_unpack_1, _scales_1, SIZE_1, weight, output, first, last, columns)
