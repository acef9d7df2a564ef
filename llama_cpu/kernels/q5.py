"""Products with ggml's Q5_0 and Q5_1 (ggml-common.h, block_q5_0 and block_q5_1).

They are Q4_0 and Q4_1 with a fifth bit for each number: 4 bytes between scales and nibbles hold
that of number j in bit j. Q5_0's numbers are scale * (bits - 16), Q5_1's are scale * bits + offset.
"""

import numpy as np

from llama_cpu.kernels.products import multiply_pairs, widen_pairs
from llama_cpu.kernels.simd import (
    bits_to_bytes,
    broadcast_pair,
    compiled,
    dot_twice,
    f16_pair,
    high_nibbles,
    join,
    load_16_bytes,
    low_nibbles,
    u16_at,
)

SIZE_0, SIZE_1 = 22, 24  # bytes of a block


@compiled
def _fifth_bits(block, following):
    """Return the fifth bits of both blocks' first halves and second halves, as 16 or 0."""
    first = u16_at(block) | (u16_at(following) << 16)
    second = u16_at(block + 2) | (u16_at(following + 2) << 16)
    return bits_to_bytes(first), bits_to_bytes(second)


@compiled
def _unpack_0(block, following):
    both = join(load_16_bytes(block + 6), load_16_bytes(following + 6))
    first, second = _fifth_bits(block + 2, following + 2)
    return low_nibbles(both) | first, high_nibbles(both) | second


@compiled
def _scales_0(block, following):
    step = f16_pair(block, following)
    return step, step * broadcast_pair(np.float32(-16))


@compiled
def _unpack_1(block, following):
    both = join(load_16_bytes(block + 8), load_16_bytes(following + 8))
    first, second = _fifth_bits(block + 4, following + 4)
    return low_nibbles(both) | first, high_nibbles(both) | second


@compiled
def _scales_1(block, following):
    return f16_pair(block, following), f16_pair(block + 2, following + 2)


def multiply_0(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q5_0 (``products.py``)."""
    multiply_pairs(
        _unpack_0, _scales_0, dot_twice, SIZE_0,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def multiply_1(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q5_1."""
    multiply_pairs(
        _unpack_1, _scales_1, dot_twice, SIZE_1,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen_0(weight, output, first, last, columns):
    """Write the rows [first, last) of Q5_0 as float32 [last - first, columns]."""
    widen_pairs(_unpack_0, _scales_0, SIZE_0, weight, output, first, last, columns)


def widen_1(weight, output, first, last, columns):
    """Write the rows [first, last) of Q5_1 as float32 [last - first, columns]."""
    widen_pairs(_unpack_1, _scales_1, SIZE_1, weight, output, first, last, columns)
