"""Attention of a few query rows to the KV cache, with a running softmax.

The heads of a group share the keys and values of one key-value head, so these are read once. A long
context is cut into parts that the threads take one by one, and ``combine`` adds up their results.
Every part knows its greatest score, so that no exponential overflows (Dao, FlashAttention-2,
arXiv:2307.08691, section 3.1).

The result of a query is ``head_dim`` float32 sums of values, then the greatest score and the sum of
the weights.
"""

import numpy as np

from llama_cpu.kernels.inputs import exp
from llama_cpu.kernels.simd import (
    broadcast,
    compiled,
    f32_at,
    first,
    fma,
    greatest,
    load_bf16,
    load_f32,
    load_i8,
    maximum,
    set_f32,
    store_f32,
    total,
    zeros,
)

BLOCK = 64  # keys whose scores are computed before their values are read
LEAST = np.float32(-1e30)  # the score of a key that is not attended to
_ONE = np.float32(1)


@compiled
def result_bytes(head_dim):
    """Return the size of one result in bytes."""
    return 4 * head_dim + 32


@compiled
def _dot_key(load, size, query, key, head_dim):
    """Return the dot product of a query and a key of ``head_dim`` numbers, a multiple of 8."""
    a, b = zeros(), zeros()
    whole = head_dim // 16 * 16
    for i in range(0, whole, 16):
        a = fma(load_f32(query + 4 * i), load(key + size * i), a)
        b = fma(load_f32(query + 4 * i + 32), load(key + size * (i + 8)), b)
    if whole < head_dim:
        a = fma(load_f32(query + 4 * whole), load(key + size * whole), a)
    return total(a + b)


@compiled
def _exponentials(scores, count, peak):
    """Replace the first ``count`` scores by e ** (score - peak), and return their sum.

    ``count`` is rounded up to a multiple of 8.
    """
    sums = zeros()
    for i in range(0, count, 8):
        weights = exp(load_f32(scores + 4 * i) - broadcast(peak))
        store_f32(scores + 4 * i, weights)
        sums = sums + weights
    return total(sums)


@compiled
def _add_values(load, size, scores, values, count, head_dim, result):
    """Add to a result the values of ``count`` keys, each times its weight."""
    for i in range(0, head_dim, 8):
        a, b = load_f32(result + 4 * i), zeros()
        value = values + size * i
        pairs = count // 2 * 2
        for key in range(0, pairs, 2):
            a = fma(broadcast(f32_at(scores + 4 * key)), load(value), a)
            b = fma(broadcast(f32_at(scores + 4 * key + 4)), load(value + size * head_dim), b)
            value += 2 * size * head_dim
        if pairs < count:
            a = fma(broadcast(f32_at(scores + 4 * pairs)), load(value), a)
        store_f32(result + 4 * i, a + b)


@compiled
def _attend(
    load, size, queries, keys, values, key_scales, value_scales, start, end, rows, group, position,
    window, head_dim, results, scores,
):  # fmt: skip
    """Attend to the keys [start, end) of one key-value head; write a result for each query.

    ``queries``: float32 [rows, group, head_dim], scaled; that of row m is at ``position`` + m and
    attends to keys up to its own and, if ``window`` is not 0, to the last ``window`` of these only.
    ``keys``, ``values``: [tokens, head_dim]; the scales, float32 [tokens], have the address 0 if
    there are none. ``scores``: memory for BLOCK float32.
    """
    pitch = result_bytes(head_dim)
    for query in range(rows * group):
        result = results + pitch * query
        for i in range(0, head_dim, 8):
            store_f32(result + 4 * i, zeros())
        set_f32(result + 4 * head_dim, LEAST)
        set_f32(result + 4 * head_dim + 4, np.float32(0))
    for block in range(start, end, BLOCK):
        for query in range(rows * group):
            own = position + query // group
            low = max(block, own + 1 - window) if window else block
            high = min(block + BLOCK, min(end, own + 1))
            if low < high:
                _attend_block(
                    load, size, queries + 4 * head_dim * query, keys, values, key_scales,
                    value_scales, low, high, head_dim, results + pitch * query, scores,
                )  # fmt: skip


@compiled
def _attend_block(
    load, size, query, keys, values, key_scales, value_scales, low, high, head_dim, result, scores
):
    """Add the keys [low, high) to the result of one query."""
    count = high - low
    rounded = (count + 7) // 8 * 8
    for key in range(count):
        score = _dot_key(load, size, query, keys + size * head_dim * (low + key), head_dim)
        if key_scales:
            score *= f32_at(key_scales + 4 * (low + key))
        set_f32(scores + 4 * key, score)
    for key in range(count, rounded):
        set_f32(scores + 4 * key, LEAST)
    peaks = load_f32(scores)
    for i in range(8, rounded, 8):
        peaks = maximum(peaks, load_f32(scores + 4 * i))
    before = f32_at(result + 4 * head_dim)
    peak = max(before, greatest(peaks))
    factor = first(exp(broadcast(before - peak)))
    weights = _exponentials(scores, rounded, peak)
    for i in range(0, head_dim, 8):
        store_f32(result + 4 * i, load_f32(result + 4 * i) * broadcast(factor))
    set_f32(result + 4 * head_dim, peak)
    set_f32(result + 4 * head_dim + 4, f32_at(result + 4 * head_dim + 4) * factor + weights)
    if value_scales:
        for key in range(count):
            scale = f32_at(value_scales + 4 * (low + key))
            set_f32(scores + 4 * key, f32_at(scores + 4 * key) * scale)
    _add_values(load, size, scores, values + size * head_dim * low, count, head_dim, result)


@compiled
def combine(results, parts, part_bytes, head_dim, output):
    """Write the attention's output [head_dim] from the results of one query, one for each part."""
    peak = LEAST
    for part in range(parts):
        peak = max(peak, f32_at(results + part * part_bytes + 4 * head_dim))
    weights = np.float32(0)
    for i in range(0, head_dim, 8):
        store_f32(output + 4 * i, zeros())
    for part in range(parts):
        result = results + part * part_bytes
        factor = first(exp(broadcast(f32_at(result + 4 * head_dim) - peak)))
        weights += factor * f32_at(result + 4 * head_dim + 4)
        for i in range(0, head_dim, 8):
            sums = fma(load_f32(result + 4 * i), broadcast(factor), load_f32(output + 4 * i))
            store_f32(output + 4 * i, sums)
    share = broadcast(_ONE / weights)
    for i in range(0, head_dim, 8):
        store_f32(output + 4 * i, load_f32(output + 4 * i) * share)


def attend_f32(
    queries, keys, values, key_scales, value_scales, start, end, rows, group, position, window,
    head_dim, results, scores,
):  # fmt: skip
    """Attend to a float32 cache (see ``_attend``)."""
    _attend(
        load_f32, 4, queries, keys, values, key_scales, value_scales, start, end, rows, group,
        position, window, head_dim, results, scores,
    )  # fmt: skip


def attend_bf16(
    queries, keys, values, key_scales, value_scales, start, end, rows, group, position, window,
    head_dim, results, scores,
):  # fmt: skip
    """Attend to a bfloat16 cache."""
    _attend(
        load_bf16, 2, queries, keys, values, key_scales, value_scales, start, end, rows, group,
        position, window, head_dim, results, scores,
    )  # fmt: skip


def attend_i8(
    queries, keys, values, key_scales, value_scales, start, end, rows, group, position, window,
    head_dim, results, scores,
):  # fmt: skip
    """Attend to an int8 cache with a scale for each key and value."""
    _attend(
        load_i8, 1, queries, keys, values, key_scales, value_scales, start, end, rows, group,
        position, window, head_dim, results, scores,
    )  # fmt: skip
