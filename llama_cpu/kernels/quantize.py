"""Rounding of float32 weights to ggml's Q4_1 and Q8_0."""

import numpy as np

from llama_cpu.kernels.q4 import SIZE_1
from llama_cpu.kernels.q8 import SIZE as SIZE_8
from llama_cpu.kernels.simd import compiled, f16_at, f32_at, set_f16, set_i8, set_u8

_CANDIDATES = 9  # widths of the range that are tried, from the whole range down to 80% of it


@compiled
def _levels(x, scale, offset):
    """Return the error of 32 numbers rounded to scale * level + offset, and sums for a better fit.

    The sums are those of the levels, of their squares, and of level times number.
    """
    steps = np.float32(1) / scale if scale > 0 else np.float32(0)
    error, levels, squares, products = (np.float32(0), np.float32(0), np.float32(0), np.float32(0))
    for i in range(32):
        value = f32_at(x + 4 * i)
        level = min(np.float32(15), max(np.float32(0), np.rint((value - offset) * steps)))
        difference = value - (scale * level + offset)
        error += difference * difference
        levels += level
        squares += level * level
        products += level * value
    return error, levels, squares, products


@compiled
def _quantize_q4_1(x, block):
    """Write 32 numbers as a block: the scale and offset with the least squared error found.

    Ranges narrower than that of the numbers are tried, each with the scale and offset that fit its
    levels best (least squares), as ggml does for Q4_K (ggml-quants.c, make_qkx2_quants).
    """
    low, high, total = f32_at(x), f32_at(x), np.float32(0)
    for i in range(32):
        value = f32_at(x + 4 * i)
        low, high, total = min(low, value), max(high, value), total + value
    best_scale, best_offset = (high - low) / np.float32(15), low
    best = _levels(x, best_scale, best_offset)[0]
    for candidate in range(_CANDIDATES):
        width = np.float32(1) - np.float32(0.2 / (_CANDIDATES - 1)) * np.float32(candidate)
        scale = (high - low) * width / np.float32(15)
        offset = low + (high - low) * (np.float32(1) - width) / np.float32(2)
        _, levels, squares, products = _levels(x, scale, offset)
        spread = np.float32(32) * squares - levels * levels
        if spread > 0:
            scale = (np.float32(32) * products - levels * total) / spread
            offset = (total - scale * levels) / np.float32(32)
            error = _levels(x, scale, offset)[0]
            if error < best:
                best, best_scale, best_offset = error, scale, offset
    set_f16(block, best_scale)
    set_f16(block + 2, best_offset)
    scale, offset = f16_at(block), f16_at(block + 2)  # as they will be read
    steps = np.float32(1) / scale if scale > 0 else np.float32(0)
    for i in range(16):
        first = np.rint((f32_at(x + 4 * i) - offset) * steps)
        second = np.rint((f32_at(x + 4 * i + 64) - offset) * steps)
        first = min(np.float32(15), max(np.float32(0), first))
        second = min(np.float32(15), max(np.float32(0), second))
        set_u8(block + 4 + i, first + np.float32(16) * second)


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
