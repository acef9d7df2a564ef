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
    prefetch,
    set_f32,
    store_f32,
    store_totals,
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
def _score(load, size, one, other, keys, values, count, head_dim, scores, other_scores):
    """Write the dot products of two queries with ``count`` keys to two lists of scores.

    ``head_dim`` is a multiple of 8. Four keys are read at a time, so that eight sums are under way;
    of the last ones, some may be beyond ``count`` and repeat the last key. The values, which are
    needed next, and later keys are asked for meanwhile.
    """
    row = size * head_dim
    for key in range(0, count, 4):
        k0 = keys + row * key
        k1 = keys + row * min(key + 1, count - 1)
        k2 = keys + row * min(key + 2, count - 1)
        k3 = keys + row * min(key + 3, count - 1)
        for line in range(0, 4 * row, 64):
            prefetch(values + row * key + line)
            prefetch(k0 + 16 * row + line)
        a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
        b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
        for i in range(0, head_dim, 8):
            q, r, at = load_f32(one + 4 * i), load_f32(other + 4 * i), size * i
            v = load(k0 + at)
            a0, b0 = fma(q, v, a0), fma(r, v, b0)
            v = load(k1 + at)
            a1, b1 = fma(q, v, a1), fma(r, v, b1)
            v = load(k2 + at)
            a2, b2 = fma(q, v, a2), fma(r, v, b2)
            v = load(k3 + at)
            a3, b3 = fma(q, v, a3), fma(r, v, b3)
        store_totals(scores + 4 * key, a0, a1, a2, a3)
        store_totals(other_scores + 4 * key, b0, b1, b2, b3)


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
def _add_values(load, size, weights, other_weights, values, count, head_dim, result, other):
    """Add to two results the values of ``count`` keys, each times its weight."""
    row = size * head_dim
    whole = head_dim // 32 * 32
    for i in range(0, whole, 32):
        y, z, value = result + 4 * i, other + 4 * i, values + size * i
        a0, a1, a2, a3 = load_f32(y), load_f32(y + 32), load_f32(y + 64), load_f32(y + 96)
        b0, b1, b2, b3 = load_f32(z), load_f32(z + 32), load_f32(z + 64), load_f32(z + 96)
        for key in range(count):
            w, u = broadcast(f32_at(weights + 4 * key)), broadcast(f32_at(other_weights + 4 * key))
            v = load(value)
            a0, b0 = fma(w, v, a0), fma(u, v, b0)
            v = load(value + 8 * size)
            a1, b1 = fma(w, v, a1), fma(u, v, b1)
            v = load(value + 16 * size)
            a2, b2 = fma(w, v, a2), fma(u, v, b2)
            v = load(value + 24 * size)
            a3, b3 = fma(w, v, a3), fma(u, v, b3)
            value += row
        store_f32(y, a0)
        store_f32(y + 32, a1)
        store_f32(y + 64, a2)
        store_f32(y + 96, a3)
        store_f32(z, b0)
        store_f32(z + 32, b1)
        store_f32(z + 64, b2)
        store_f32(z + 96, b3)
    for i in range(whole, head_dim, 8):
        a, b = load_f32(result + 4 * i), load_f32(other + 4 * i)
        for key in range(count):
            v = load(values + row * key + size * i)
            a = fma(broadcast(f32_at(weights + 4 * key)), v, a)
            b = fma(broadcast(f32_at(other_weights + 4 * key)), v, b)
        store_f32(result + 4 * i, a)
        store_f32(other + 4 * i, b)


@compiled
def _attend(
    load, size, queries, keys, values, key_scales, value_scales, start, end, rows, group, position,
    window, head_dim, results, scores,
):  # fmt: skip
    """Attend to the keys [start, end) of one key-value head; write a result for each query.

    ``queries``: float32 [rows, group, head_dim], scaled; that of row m is at ``position`` + m and
    attends to keys up to its own and, if ``window`` is not 0, to the last ``window`` of these only.
    ``keys``, ``values``: [tokens, head_dim]; the scales, float32 [tokens], have the address 0 if
    there are none. ``scores``: memory for 2 * BLOCK float32. There is memory for one more query and
    result than rows * group: queries are computed by twos.
    """
    pitch = result_bytes(head_dim)
    count = rows * group
    for query in range(count + count % 2):
        result = results + pitch * query
        for i in range(0, head_dim, 8):
            store_f32(result + 4 * i, zeros())
        set_f32(result + 4 * head_dim, LEAST)
        set_f32(result + 4 * head_dim + 4, np.float32(0))
    if count % 2:
        for i in range(0, head_dim, 8):
            store_f32(queries + 4 * head_dim * count + 4 * i, zeros())
    for block in range(start, end, BLOCK):
        last = min(block + BLOCK, end)
        for query in range(0, count, 2):
            own = position + query // group
            next_own = position + min(query + 1, count - 1) // group
            low = max(block, own + 1 - window) if window else block
            next_low = max(block, next_own + 1 - window) if window else block
            high, next_high = min(last, own + 1), min(last, next_own + 1)
            if min(low, next_low) >= max(high, next_high):
                continue
            first_key, keys_read = min(low, next_low), max(high, next_high) - min(low, next_low)
            result, query_address = results + pitch * query, queries + 4 * head_dim * query
            other, other_scores = result + pitch, scores + 4 * BLOCK
            _score(
                load, size, query_address, query_address + 4 * head_dim,
                keys + size * head_dim * first_key, values + size * head_dim * first_key, keys_read,
                head_dim, scores, other_scores,
            )  # fmt: skip
            key_scale = key_scales + 4 * first_key if key_scales else 0
            value_scale = value_scales + 4 * first_key if value_scales else 0
            _weigh(
                scores, low - first_key, high - first_key, keys_read, key_scale, value_scale,
                head_dim, result,
            )  # fmt: skip
            _weigh(
                other_scores, next_low - first_key, next_high - first_key, keys_read, key_scale,
                value_scale, head_dim, other,
            )  # fmt: skip
            _add_values(
                load, size, scores, other_scores, values + size * head_dim * first_key, keys_read,
                head_dim, result, other,
            )  # fmt: skip


@compiled
def _weigh(scores, low, high, count, key_scales, value_scales, head_dim, result):
    """Replace the scores of ``count`` keys by the weights of their values in one result.

    The weight is e ** (score - greatest score so far), and 0 outside of [low, high). The result is
    scaled down if the greatest score grew. With scales, scores and weights are multiplied by those
    of the keys and values.
    """
    rounded = (count + 7) // 8 * 8
    if key_scales:
        for key in range(count):
            set_f32(scores + 4 * key, f32_at(scores + 4 * key) * f32_at(key_scales + 4 * key))
    for key in range(low):
        set_f32(scores + 4 * key, LEAST)
    for key in range(max(high, 0), rounded):
        set_f32(scores + 4 * key, LEAST)
    peaks = load_f32(scores)
    for i in range(8, rounded, 8):
        peaks = maximum(peaks, load_f32(scores + 4 * i))
    before = f32_at(result + 4 * head_dim)
    peak = max(before, greatest(peaks))
    # LEAST is so far below any score that e ** (LEAST - peak) is about 1e-38, which adds nothing.
    weights = _exponentials(scores, rounded, peak)
    if peak > before:
        factor = broadcast(first(exp(broadcast(before - peak))))
        for i in range(0, head_dim, 8):
            store_f32(result + 4 * i, load_f32(result + 4 * i) * factor)
        set_f32(result + 4 * head_dim, peak)
        set_f32(result + 4 * head_dim + 4, f32_at(result + 4 * head_dim + 4) * first(factor))
    set_f32(result + 4 * head_dim + 4, f32_at(result + 4 * head_dim + 4) + weights)
    if value_scales:
        for key in range(count):
            set_f32(scores + 4 * key, f32_at(scores + 4 * key) * f32_at(value_scales + 4 * key))


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
