"""The inputs of products: normalized, activated and rounded rows, prepared by each thread.

Every thread prepares the whole input of a product by itself, in memory of its own. That repeats
little work and saves a wait for the other threads, which would take longer.

A prepared row of ``columns`` numbers, padded with zeros to a multiple of 256 (``padded``), is

====================  ==================  ========================================================
what                  begins at byte      type
====================  ==================  ========================================================
numbers               0                   float32 [padded]
rounded to 8 bits     4 * padded          int8 [padded], in steps of 254 times the scale
the same, in halves   5 * padded          int8 [padded]: of each two groups first both first
                                          halves, then both second halves
lower bytes           6 * padded          int8 [padded], in halves: what the 8 bits lack
scales                7 * padded          float32 [padded / 32], one for each group of 32
sums of 32            7.125 * padded      float32 [padded / 32]: of the numbers rounded to 16 bits
sums of 32, 8 bits    7.25 * padded       float32 [padded / 32]: of those rounded to 8 bits
sums of 16, 8 bits    7.375 * padded      float32 [padded / 16]
====================  ==================  ========================================================

A number rounded to 16 bits is scale * (254 * byte + lower byte), with both from -127 to 127: the
products of some processors cannot negate -128. Blocks of 32 are multiplied by both bytes, because
8 bits alone changed the demo model's answers; blocks of 256 by the upper one, as in llama.cpp. The
rounded part is there only for products that ask for it.
"""

import numpy as np

from llama_cpu.kernels.layout import UPPER_BYTE
from llama_cpu.kernels.simd import (
    absolute,
    broadcast,
    compiled,
    divided,
    f32_at,
    first,
    fma,
    greatest,
    load_f32,
    maximum,
    power_of_2,
    rounded,
    set_f32,
    store_f32,
    store_i8,
    total,
    zeros,
)

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST = np.float32(-87.0)  # exp of it is still a normal float32
_ZERO, _ONE, _BASE = np.float32(0), np.float32(1), np.float32(UPPER_BYTE)
_STEPS = np.float32(127 * UPPER_BYTE + 126)  # one more would round the upper byte to 128
_TINY = np.float32(1e-30)


@compiled
def padded(columns):
    """Return the length of a prepared row."""
    return (columns + 255) // 256 * 256


@compiled
def input_bytes(columns):
    """Return the size of a prepared row in bytes."""
    return 8 * padded(columns)


@compiled
def exp(x):
    """Return e ** x of 8 numbers up to 0 to within 2 units in the last place.

    The polynomial is that of the Cephes library (expf.c). Below -87, the result is about 1e-38.
    """
    x = maximum(x, broadcast(_LEAST))
    n = rounded(x * broadcast(_LOG2_E))
    x = fma(n, broadcast(-_LN2_HIGH), x)
    x = fma(n, broadcast(-_LN2_LOW), x)
    y = broadcast(np.float32(1.9875691500e-4))
    y = fma(y, x, broadcast(np.float32(1.3981999507e-3)))
    y = fma(y, x, broadcast(np.float32(8.3334519073e-3)))
    y = fma(y, x, broadcast(np.float32(4.1665795894e-2)))
    y = fma(y, x, broadcast(np.float32(1.6666665459e-1)))
    y = fma(y, x, broadcast(np.float32(5.0000001201e-1)))
    return fma(y, x * x, x + broadcast(_ONE)) * power_of_2(n)


@compiled
def norm_row(x, weight, eps, columns, row):
    """Write the root mean square norm of x, float32 [columns], to a prepared row."""
    squares = zeros()
    whole = columns // 8 * 8
    for i in range(0, whole, 8):
        v = load_f32(x + 4 * i)
        squares = fma(v, v, squares)
    size = total(squares)
    for i in range(whole, columns):
        size += f32_at(x + 4 * i) * f32_at(x + 4 * i)
    scale = _ONE / np.sqrt(size / np.float32(columns) + eps)
    for i in range(0, whole, 8):
        store_f32(row + 4 * i, load_f32(x + 4 * i) * broadcast(scale) * load_f32(weight + 4 * i))
    for i in range(whole, columns):
        set_f32(row + 4 * i, f32_at(x + 4 * i) * scale * f32_at(weight + 4 * i))


@compiled
def copy_row(x, columns, row):
    """Write x, float32 [columns], to a prepared row."""
    whole = columns // 8 * 8
    for i in range(0, whole, 8):
        store_f32(row + 4 * i, load_f32(x + 4 * i))
    for i in range(whole, columns):
        set_f32(row + 4 * i, f32_at(x + 4 * i))


@compiled
def silu(x):
    """Return x * sigmoid(x) of 8 numbers."""
    size = exp(zeros() - absolute(x))  # at most 1, so nothing overflows
    one = broadcast(_ONE)
    # sigmoid(x) is 1 / (1 + size) for x >= 0 and size / (1 + size) below.
    return divided(maximum(x, zeros()) + (x - maximum(x, zeros())) * size, one + size)


@compiled
def swiglu_row(gate_up, columns, row):
    """Write silu(gate) * up to a prepared row; gate_up: float32 [2 * columns]."""
    whole = columns // 8 * 8
    up = gate_up + 4 * columns
    for i in range(0, whole, 8):
        store_f32(row + 4 * i, silu(load_f32(gate_up + 4 * i)) * load_f32(up + 4 * i))
    for i in range(whole, columns):
        gate = broadcast(f32_at(gate_up + 4 * i))
        set_f32(row + 4 * i, first(silu(gate)) * f32_at(up + 4 * i))


@compiled
def round_row(row, columns):
    """Add the rounded part to a prepared row whose numbers are there."""
    length = padded(columns)
    for i in range(columns, length):
        set_f32(row + 4 * i, _ZERO)
    for group in range(length // 32):
        x = row + 128 * group
        size = maximum(
            maximum(absolute(load_f32(x)), absolute(load_f32(x + 32))),
            maximum(absolute(load_f32(x + 64)), absolute(load_f32(x + 96))),
        )
        scale = greatest(size) / _STEPS
        steps = _ONE / max(scale, _TINY)
        halves = row + 5 * length + 64 * (group // 2) + 16 * (group % 2)
        natural = row + 4 * length + 32 * group
        a, upper_a = _round_8(x, steps, natural, halves, length)
        b, upper_b = _round_8(x + 32, steps, natural + 8, halves + 8, length)
        c, upper_c = _round_8(x + 64, steps, natural + 16, halves + 32, length)
        d, upper_d = _round_8(x + 96, steps, natural + 24, halves + 40, length)
        first_sum, second_sum = _BASE * total(upper_a + upper_b), _BASE * total(upper_c + upper_d)
        scales = row + 7 * length + 4 * group
        set_f32(scales, scale)
        set_f32(scales + length // 8, scale * total((a + b) + (c + d)))
        set_f32(scales + length // 4, scale * (first_sum + second_sum))
        sixteens = row + 7 * length + 3 * length // 8 + 8 * group
        set_f32(sixteens, scale * first_sum)
        set_f32(sixteens + 4, scale * second_sum)


@compiled
def _round_8(x, steps, natural, halves, length):
    """Round 8 numbers to 16 bits and write their bytes; return the numbers and the upper bytes."""
    whole = rounded(load_f32(x) * broadcast(steps))
    upper = rounded(whole * broadcast(_ONE / _BASE))
    store_i8(natural, upper)
    store_i8(halves, upper)
    store_i8(halves + length, whole - upper * broadcast(_BASE))
    return whole, upper
