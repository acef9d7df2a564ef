"""Products with ggml's IQ4_NL and IQ4_XS (ggml-common.h, block_iq4_nl and block_iq4_xs).

Four bits choose one of 16 fixed values. IQ4_NL is laid out like Q4_0. A block of 256 numbers of
IQ4_XS is a float16 scale, the upper 2 and the lower 4 bits of the scales of 8 groups (2 and 4
bytes), and 16 bytes for each group, as in Q4_0.
"""

import numpy as np

from llama_cpu.kernels.products import (
    add_block_of_32s,
    multiply_blocks,
    multiply_pairs,
    widen_block_of_32s,
    widen_blocks,
    widen_pairs,
)
from llama_cpu.kernels.simd import (
    broadcast,
    broadcast_pair,
    bytes_to_f32,
    compiled,
    f16_at,
    f16_pair,
    halves_of,
    high_nibbles,
    iq4_values,
    join,
    load_16_bytes,
    low_nibbles,
    signed_dot,
    signed_dot_twice,
    u16_at,
    u32_at,
    zeros,
)

SIZE_NL, SIZE_XS = 18, 136  # bytes of a block


@compiled
def _unpack_nl(block, following):
    both = join(load_16_bytes(block + 2), load_16_bytes(following + 2))
    return iq4_values(low_nibbles(both)), iq4_values(high_nibbles(both))


@compiled
def _scales_nl(block, following):
    return f16_pair(block, following), broadcast_pair(np.float32(0))


@compiled
def _group(address):
    """Return the 32 values of a group, in order."""
    both = join(load_16_bytes(address), load_16_bytes(address))
    return iq4_values(halves_of(low_nibbles(both), high_nibbles(both)))


@compiled
def _unpack_xs(block):
    first = block + 8
    return (
        _group(first),
        _group(first + 16),
        _group(first + 32),
        _group(first + 48),
        _group(first + 64),
        _group(first + 80),
        _group(first + 96),
        _group(first + 112),
    )


@compiled
def _scales_xs(block):
    upper, lower = u16_at(block + 2), u32_at(block + 4)
    scales = 0
    for group in range(8):
        scale = ((lower >> (4 * group)) & 15) | (((upper >> (2 * group)) & 3) << 4)
        scales |= scale << (8 * group)
    steps = bytes_to_f32(scales) - broadcast(np.float32(32))
    return steps * broadcast(f16_at(block)), zeros()


def multiply_nl(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with IQ4_NL (``products.py``)."""
    multiply_pairs(
        _unpack_nl, _scales_nl, signed_dot_twice, SIZE_NL,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def multiply_xs(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with IQ4_XS."""
    multiply_blocks(
        add_block_of_32s, _unpack_xs, _scales_xs, signed_dot, SIZE_XS,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen_nl(weight, output, first, last, columns):
    """Write the rows [first, last) of IQ4_NL as float32 [last - first, columns]."""
    widen_pairs(_unpack_nl, _scales_nl, SIZE_NL, weight, output, first, last, columns)


def widen_xs(weight, output, first, last, columns):
    """Write the rows [first, last) of IQ4_XS as float32 [last - first, columns]."""
    widen_blocks(
        widen_block_of_32s, _unpack_xs, _scales_xs, SIZE_XS, weight, output, first, last, columns
    )
