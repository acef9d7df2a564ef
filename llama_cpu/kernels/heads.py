"""Queries, keys and values of single heads: norm, rotary embedding, and the write to the cache."""

import numpy as np

from llama_cpu.kernels.layout import BF16_CACHE, F32_CACHE
from llama_cpu.kernels.simd import (
    absolute,
    broadcast,
    compiled,
    divided,
    f32_at,
    greatest,
    load_f32,
    maximum,
    rounded,
    set_f32,
    store_bf16,
    store_f32,
    store_i8,
    zeros,
)


@compiled
def place_head(source, norm, eps, angles, interleaved, scale, head_dim, target):
    """Write a head of a query or key to ``target``: normalized, rotated and scaled.

    ``norm``: the address of the norm's weight, float32 [head_dim]; 0 for none. ``angles``: that of
    cosine and sine of each pair, float32 [head_dim / 2, 2]; 0 for no rotation. ``interleaved``:
    whether a pair is two neighbours, and not a number of each half.
    """
    if norm:
        squares = np.float32(0)
        for i in range(head_dim):
            squares += f32_at(source + 4 * i) * f32_at(source + 4 * i)
        size = np.float32(1) / np.sqrt(squares / np.float32(head_dim) + eps)
        for i in range(head_dim):
            set_f32(target + 4 * i, f32_at(source + 4 * i) * size * f32_at(norm + 4 * i))
    else:
        for i in range(0, head_dim, 8):
            store_f32(target + 4 * i, load_f32(source + 4 * i))
    if angles:
        half = head_dim // 2
        for pair in range(half):
            cos, sin = f32_at(angles + 8 * pair), f32_at(angles + 8 * pair + 4)
            one = target + 8 * pair if interleaved else target + 4 * pair
            other = one + 4 if interleaved else one + 4 * half
            x, y = f32_at(one), f32_at(other)
            set_f32(one, x * cos - y * sin)
            set_f32(other, y * cos + x * sin)
    for i in range(0, head_dim, 8):
        store_f32(target + 4 * i, load_f32(target + 4 * i) * broadcast(scale))


@compiled
def store_head(source, kind, target, scale, head_dim):
    """Write float32 [head_dim] to the cache; ``scale``: the address of its scale if int8."""
    if kind == F32_CACHE:
        for i in range(0, head_dim, 8):
            store_f32(target + 4 * i, load_f32(source + 4 * i))
    elif kind == BF16_CACHE:
        for i in range(0, head_dim, 8):
            store_bf16(target + 2 * i, load_f32(source + 4 * i))
    else:
        size = zeros()
        for i in range(0, head_dim, 8):
            size = maximum(size, absolute(load_f32(source + 4 * i)))
        step = greatest(size) / np.float32(127)
        steps = broadcast(max(step, np.float32(1e-30)))
        for i in range(0, head_dim, 8):
            store_i8(target + i, rounded(divided(load_f32(source + 4 * i), steps)))
        set_f32(scale, step)
