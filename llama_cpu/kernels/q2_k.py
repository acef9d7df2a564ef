"""Products with ggml's Q2_K and Q3_K (ggml-common.h, block_q2_K and block_q3_K).

A block of 256 numbers has 16 groups of 16. Q2_K: 16 bytes with a 4-bit scale and, in the high bits,
a 4-bit minimum for each group, 64 bytes with 2 bits a number, and two float16 factors. A number is
factor * scale * bits - other factor * minimum. Q3_K: 32 bytes with the third bits, 64 bytes with
the lower 2 bits, 12 bytes with a 6-bit scale for each group, and a float16 factor. A number is
factor * (scale - 32) * (bits - 4).

Each half of the block, 128 numbers, has 32 of the 64 bytes. They hold number j of the first 32
numbers in their lowest two bits, and so on. Bit g of the byte of third bits with number j belongs
to number j of the 32 numbers with number g.
"""

import numpy as np

from llama_cpu.kernels.products import (
    add_block_of_16s,
    multiply_blocks,
    widen_block_of_16s,
    widen_blocks,
)
from llama_cpu.kernels.simd import (
    bits,
    broadcast,
    bytes_to_f32,
    compiled,
    dot,
    f16_at,
    i64_at,
    load_32_bytes,
    u32_at,
)

SIZE_2, SIZE_3 = 84, 110  # bytes of a block
_NIBBLES, _FOUR_BITS, _TWO_BITS = 0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F, 0x03030303

_lower_0, _lower_1, _lower_2, _lower_3 = bits(0, 3), bits(2, 3), bits(4, 3), bits(6, 3)
# The third bit of a number, of the eight in a byte, moved to the value 4.
_third_0, _third_1, _third_2, _third_3 = bits(-2, 4), bits(-1, 4), bits(0, 4), bits(1, 4)
_third_4, _third_5, _third_6, _third_7 = bits(2, 4), bits(3, 4), bits(4, 4), bits(5, 4)


@compiled
def _unpack_2(block):
    a, b = load_32_bytes(block + 16), load_32_bytes(block + 48)
    return (
        _lower_0(a),
        _lower_1(a),
        _lower_2(a),
        _lower_3(a),
        _lower_0(b),
        _lower_1(b),
        _lower_2(b),
        _lower_3(b),
    )


@compiled
def _scales_2(block):
    first, last = i64_at(block), i64_at(block + 8)
    factor, other = broadcast(f16_at(block + 80)), broadcast(-f16_at(block + 82))
    return (
        bytes_to_f32(first & _NIBBLES) * factor,
        bytes_to_f32(last & _NIBBLES) * factor,
        bytes_to_f32((first >> 4) & _NIBBLES) * other,
        bytes_to_f32((last >> 4) & _NIBBLES) * other,
    )


@compiled
def _unpack_3(block):
    third, a, b = load_32_bytes(block), load_32_bytes(block + 32), load_32_bytes(block + 64)
    return (
        _lower_0(a) | _third_0(third),
        _lower_1(a) | _third_1(third),
        _lower_2(a) | _third_2(third),
        _lower_3(a) | _third_3(third),
        _lower_0(b) | _third_4(third),
        _lower_1(b) | _third_5(third),
        _lower_2(b) | _third_6(third),
        _lower_3(b) | _third_7(third),
    )


@compiled
def _scales_3(block):
    """Return the scales and offsets.

    The lower 4 bits of the scales of groups 0 to 7 are in the low bits of the first 8 of the 12
    bytes, those of groups 8 to 15 in their high bits. The upper 2 bits of groups 0 to 3 are in the
    lowest bits of the last 4 bytes, those of groups 4 to 7 in the next, and so on.
    """
    a, b, c = u32_at(block + 96), u32_at(block + 100), u32_at(block + 104)
    first = ((a & _FOUR_BITS) | ((c & _TWO_BITS) << 4)) | (
        ((b & _FOUR_BITS) | (((c >> 2) & _TWO_BITS) << 4)) << 32
    )
    last = (((a >> 4) & _FOUR_BITS) | (((c >> 4) & _TWO_BITS) << 4)) | (
        (((b >> 4) & _FOUR_BITS) | (((c >> 6) & _TWO_BITS) << 4)) << 32
    )
    factor = broadcast(f16_at(block + 108))
    step = (bytes_to_f32(first) - broadcast(np.float32(32))) * factor
    further = (bytes_to_f32(last) - broadcast(np.float32(32))) * factor
    middle = broadcast(np.float32(-4))
    return step, further, step * middle, further * middle


def multiply_2(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q2_K (``products.py``)."""
    multiply_blocks(
        add_block_of_16s, _unpack_2, _scales_2, dot, SIZE_2,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def multiply_3(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q3_K."""
    multiply_blocks(
        add_block_of_16s, _unpack_3, _scales_3, dot, SIZE_3,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen_2(weight, output, first, last, columns):
    """Write the rows [first, last) of Q2_K as float32 [last - first, columns]."""
    widen_blocks(
        widen_block_of_16s, _unpack_2, _scales_2, SIZE_2, weight, output, first, last, columns
    )


def widen_3(weight, output, first, last, columns):
    """Write the rows [first, last) of Q3_K as float32 [last - first, columns]."""
    widen_blocks(
        widen_block_of_16s, _unpack_3, _scales_3, SIZE_3, weight, output, first, last, columns
    )
