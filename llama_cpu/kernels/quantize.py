"""Rounding of float32 weights to ggml's Q4_1 and Q8_0."""

import numpy as np

from llama_cpu.kernels.q4 import SIZE_1
from llama_cpu.kernels.q8 import SIZE as SIZE_8
from llama_cpu.kernels.simd import (
    broadcast,
    compiled,
    f16_at,
    f32_at,
    fma,
    greatest,
    load_f32,
    maximum,
    minimum,
    rounded,
    set_f16,
    set_i8,
    store_u8,
    total,
    zeros,
)

_CANDIDATES = 5  # widths of the range that are tried, from the whole range down to 80% of it


@compiled
def _clamped(x, scale, offset):
    """Return the levels from 0 to 15 that 8 numbers are rounded to."""
    steps = np.float32(1) / scale if scale > 0 else np.float32(0)
    levels = rounded((x - broadcast(offset)) * broadcast(steps))
    return minimum(maximum(levels, zeros()), broadcast(np.float32(15)))


@compiled
def _fit(x, scale, offset):
    """Return the error of 32 numbers rounded to scale * level + offset, and sums for a better fit.

    The sums are those of the levels, of their squares, and of level times number.
    """
    error, levels, squares, products = zeros(), zeros(), zeros(), zeros()
    for i in range(0, 32, 8):
        value = load_f32(x + 4 * i)
        level = _clamped(value, scale, offset)
        difference = value - fma(broadcast(scale), level, broadcast(offset))
        error = fma(difference, difference, error)
        levels = levels + level
        squares = fma(level, level, squares)
        products = fma(level, value, products)
    return total(error), total(levels), total(squares), total(products)


@compiled
def _quantize_q4_1(x, block):
    """Write 32 numbers as a block: the scale and offset with the least squared error found.

    Ranges narrower than that of the numbers are tried, each with the scale and offset that fit its
    levels best (least squares), as ggml does for Q4_K (ggml-quants.c, make_qkx2_quants).
    """
    v0, v1, v2, v3 = load_f32(x), load_f32(x + 32), load_f32(x + 64), load_f32(x + 96)
    high = greatest(maximum(maximum(v0, v1), maximum(v2, v3)))
    low = -greatest(zeros() - minimum(minimum(v0, v1), minimum(v2, v3)))
    sums = total((v0 + v1) + (v2 + v3))
    best_scale, best_offset = (high - low) / np.float32(15), low
    best = _fit(x, best_scale, best_offset)[0]
    for candidate in range(_CANDIDATES):
        width = np.float32(1) - np.float32(0.2 / (_CANDIDATES - 1)) * np.float32(candidate)
        scale = (high - low) * width / np.float32(15)
        offset = low + (high - low) * (np.float32(1) - width) / np.float32(2)
        _, levels, squares, products = _fit(x, scale, offset)
        spread = np.float32(32) * squares - levels * levels
        if spread > 0:
            scale = (np.float32(32) * products - levels * sums) / spread
            offset = (sums - scale * levels) / np.float32(32)
            error = _fit(x, scale, offset)[0]
            if error < best:
                best, best_scale, best_offset = error, scale, offset
    set_f16(block, best_scale)
    set_f16(block + 2, best_offset)
    scale, offset = f16_at(block), f16_at(block + 2)  # as they will be read
    for i in range(0, 16, 8):
        first = _clamped(load_f32(x + 4 * i), scale, offset)
        second = _clamped(load_f32(x + 4 * i + 64), scale, offset)
        store_u8(block + 4 + i, fma(second, broadcast(np.float32(16)), first))


@compiled
def _quantize_q8_0(x, block):
    """Write 32 numbers as a block; the largest magnitude becomes 127."""
    size = np.float32(0)
    for i in range(32):
        size = max(size, abs(f32_at(x + 4 * i)))
    set_f16(block, size / np.float32(127))
    scale = f16_at(block)
    steps = np.float32(1) / scale if scale > 0 else np.float32(0)
    for i in range(32):
        level = np.rint(f32_at(x + 4 * i) * steps)
        set_i8(block + 2 + i, min(np.float32(127), max(np.float32(-127), level)))


def quantize_q4_1(rows, blocks, first, last, columns):
    """Write the rows [first, last) of float32 [n, columns] as blocks."""
    for i in range(first * (columns // 32), last * (columns // 32)):
        _quantize_q4_1(rows + 128 * i, blocks + SIZE_1 * i)


def quantize_q8_0(rows, blocks, first, last, columns):
    """Write the rows [first, last) of float32 [n, columns] as blocks."""
    for i in range(first * (columns // 32), last * (columns // 32)):
        _quantize_q8_0(rows + 128 * i, blocks + SIZE_8 * i)
