"""Products with ggml's Q6_K (ggml-common.h, block_q6_K).

A block of 256 numbers is 128 bytes with the lower 4 bits, 64 bytes with the upper 2, 16 int8 scales
of groups of 16, and a float16 factor. A number is factor * scale * (bits - 32).

Each half of the block, 128 numbers, has 64 bytes of lower bits, the first 32 numbers in the low
bits of the first 32 bytes, the next in those of the other 32, then the high bits likewise. The four
times 32 numbers have two bits each in 32 bytes of upper bits.
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
    compiled,
    dot,
    f16_at,
    high_nibbles,
    load_32_bytes,
    load_i8,
    low_nibbles,
)

SIZE = 210  # bytes of a block

# The upper two bits of a number, of the four in a byte, moved to the values 16 and 32.
_upper_0, _upper_1, _upper_2, _upper_3 = bits(-4, 48), bits(-2, 48), bits(0, 48), bits(2, 48)


@compiled
def _unpack(block):
    a, b, c = load_32_bytes(block), load_32_bytes(block + 32), load_32_bytes(block + 128)
    d, e, f = load_32_bytes(block + 64), load_32_bytes(block + 96), load_32_bytes(block + 160)
    return (
        low_nibbles(a) | _upper_0(c),
        low_nibbles(b) | _upper_1(c),
        high_nibbles(a) | _upper_2(c),
        high_nibbles(b) | _upper_3(c),
        low_nibbles(d) | _upper_0(f),
        low_nibbles(e) | _upper_1(f),
        high_nibbles(d) | _upper_2(f),
        high_nibbles(e) | _upper_3(f),
    )


@compiled
def _scales(block):
    factor, middle = broadcast(f16_at(block + 208)), broadcast(np.float32(-32))
    step, further = load_i8(block + 192) * factor, load_i8(block + 200) * factor
    return step, further, step * middle, further * middle


def multiply(weight, inputs, output, first, last, columns, rows, stride, adds):
    """The product (``products.py``)."""
    multiply_blocks(
        add_block_of_16s, _unpack, _scales, dot, SIZE,
        weight, inputs, output, first, last, columns, rows, stride, adds,
    )  # fmt: skip


def widen(weight, output, first, last, columns):
    """Write the rows [first, last) as float32 [last - first, columns]."""
    widen_blocks(widen_block_of_16s, _unpack, _scales, SIZE, weight, output, first, last, columns)
