"""Products with ggml's Q4_K and Q5_K (ggml-common.h, block_q4_K and block_q5_K).

A block of 256 numbers is two float16 factors, 12 bytes with a 6-bit scale and a 6-bit minimum for
each of 8 groups of 32, in Q5_K 32 bytes with the fifth bits, and 128 bytes with the lower 4 bits. A
number is factor * scale * bits - other factor * minimum.

Of the 128 bytes, 32 hold one group in their low and the next in their high bits. Bit g of the byte
of fifth bits with number j belongs to number j of group g.
"""

from llama_cpu.kernels.products import (
    add_block_of_32s,
    multiply_blocks,
    widen_block_of_32s,
    widen_blocks,
)
from llama_cpu.kernels.simd import (
    bits,
    broadcast,
    bytes_to_f32,
    compiled,
    dot,
    f16_at,
    high_nibbles,
    load_32_bytes,
    low_nibbles,
    u32_at,
)

SIZE_4, SIZE_5 = 144, 176  # bytes of a block
_SIX_BITS, _FOUR_BITS, _TWO_BITS = 0x3F3F3F3F, 0x0F0F0F0F, 0x03030303

# The bit of a byte that belongs to a group of 32, moved to the value 16.
_fifth_0, _fifth_1, _fifth_2, _fifth_3 = bits(-4, 16), bits(-3, 16), bits(-2, 16), bits(-1, 16)
_fifth_4, _fifth_5, _fifth_6, _fifth_7 = bits(0, 16), bits(1, 16), bits(2, 16), bits(3, 16)


@compiled
def _scales(block):
    """Return the scales and the offsets of the 8 groups.

    The first 8 of the 12 bytes hold the scales and minima of groups 0 to 3 in their lower 6 bits.
    Those of groups 4 to 7 are in the last 4 bytes (the lower 4 bits) and in the upper 2 bits of the
    first 8.
    """
    a, b, c = u32_at(block + 4), u32_at(block + 8), u32_at(block + 12)
    scales = (a & _SIX_BITS) | (((c & _FOUR_BITS) | (((a >> 6) & _TWO_BITS) << 4)) << 32)
    minima = (b & _SIX_BITS) | ((((c >> 4) & _FOUR_BITS) | (((b >> 6) & _TWO_BITS) << 4)) << 32)
    step = bytes_to_f32(scales) * broadcast(f16_at(block))
    return step, bytes_to_f32(minima) * broadcast(-f16_at(block + 2))


@compiled
def _unpack_4(block):
    a, b = load_32_bytes(block + 16), load_32_bytes(block + 48)
    c, d = load_32_bytes(block + 80), load_32_bytes(block + 112)
    return (
        low_nibbles(a),
        high_nibbles(a),
        low_nibbles(b),
        high_nibbles(b),
        low_nibbles(c),
        high_nibbles(c),
        low_nibbles(d),
        high_nibbles(d),
    )


@compiled
def _unpack_5(block):
    a, b = load_32_bytes(block + 48), load_32_bytes(block + 80)
    c, d = load_32_bytes(block + 112), load_32_bytes(block + 144)
    fifth = load_32_bytes(block + 16)
    return (
        low_nibbles(a) | _fifth_0(fifth),
        high_nibbles(a) | _fifth_1(fifth),
        low_nibbles(b) | _fifth_2(fifth),
        high_nibbles(b) | _fifth_3(fifth),
        low_nibbles(c) | _fifth_4(fifth),
        high_nibbles(c) | _fifth_5(fifth),
        low_nibbles(d) | _fifth_6(fifth),
        high_nibbles(d) | _fifth_7(fifth),
    )


def multiply_4(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q4_K (``products.py``)."""
    multiply_blocks(
        add_block_of_32s, _unpack_4, _scales, dot, SIZE_4,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def multiply_5(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product with Q5_K."""
    multiply_blocks(
        add_block_of_32s, _unpack_5, _scales, dot, SIZE_5,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen_4(weight, output, first, last, columns):
    """Write the rows [first, last) of Q4_K as float32 [last - first, columns]."""
    widen_blocks(
        widen_block_of_32s, _unpack_4, _scales, SIZE_4, weight, output, first, last, columns
    )


def widen_5(weight, output, first, last, columns):
    """Write the rows [first, last) of Q5_K as float32 [last - first, columns]."""
    widen_blocks(
        widen_block_of_32s, _unpack_5, _scales, SIZE_5, weight, output, first, last, columns
    )
