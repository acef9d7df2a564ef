"""Loops that the products of all weight formats share.

A product is compiled from a function with the arguments

    (weight, inputs, output, first, last, columns, rows, stride, adds)

It multiplies ``rows`` prepared inputs (``inputs.py``) by the rows [first, last) of a weight
[out, columns], and writes float32 to ``output`` [rows, stride], or adds to what is there if
``adds`` is 1. After the inputs there is memory for one more, which the product may use. All
arguments are int64; the first three are addresses.

A row of a weight is read from memory once. Four inputs are multiplied at a time, so that unpacking
it is done once for four of them.
"""

import numpy as np

from llama_cpu.kernels.inputs import input_bytes, padded
from llama_cpu.kernels.layout import UPPER_BYTE
from llama_cpu.kernels.simd import (
    broadcast,
    compiled,
    f32_at,
    fma,
    fma_pair,
    lane_0,
    lane_1,
    lane_2,
    lane_3,
    lane_4,
    lane_5,
    lane_6,
    lane_7,
    lanes_0,
    lanes_2,
    lanes_4,
    lanes_6,
    load_32_bytes,
    load_f32,
    load_pair,
    prefetch,
    quarter_0,
    quarter_1,
    quarter_2,
    quarter_3,
    set_f32,
    spread,
    spread_at,
    store_f32,
    store_pair,
    to_float,
    total,
    total_pair,
    twice_high,
    twice_low,
    zero_pair,
    zeros,
)

# Bytes by which reading ahead of the arithmetic is asked for; the processor's own prefetching stops
# at the end of each page. On AMD Zen 3, a 7B model's layers in Q4_0 took 71 ms with 512 bytes, 52
# with 2048 and 54 with 8192; in bfloat16 181, 195 and 169 ms.
AHEAD = 4096


@compiled
def write_result(output, value, adds):
    """Write a float32 result, or add it to what is there."""
    if adds:
        value += f32_at(output)
    set_f32(output, value)


@compiled
def write_4_results(output, stride, results, adds):
    """Write the results of four inputs."""
    write_result(output, results[0], adds)
    write_result(output + 4 * stride, results[1], adds)
    write_result(output + 8 * stride, results[2], adds)
    write_result(output + 12 * stride, results[3], adds)


@compiled
def widen_floats(load, at, size, scale, scales, weight, output, first, last, columns):
    """Write the rows [first, last) of a weight of numbers as float32 [last - first, columns]."""
    whole = columns // 8 * 8
    for row in range(first, last):
        w, y = weight + row * columns * size, output + 4 * (row - first) * columns
        factor = scale(scales, row)
        for i in range(0, whole, 8):
            store_f32(y + 4 * i, load(w + size * i) * broadcast(factor))
        for i in range(whole, columns):
            set_f32(y + 4 * i, at(w + size * i) * factor)


# Weights of numbers of one size: float32, bfloat16, float16, int8


@compiled
def dot_floats(load, at, size, weight, x, columns):
    """Return the dot product of a weight's row with one input.

    ``load`` and ``at`` read 8 numbers and one number of ``size`` bytes as float32.
    """
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    whole = columns // 32 * 32
    for i in range(0, whole, 32):
        w = weight + size * i
        prefetch(w + AHEAD)
        a = fma(load(w), load_f32(x + 4 * i), a)
        b = fma(load(w + 8 * size), load_f32(x + 4 * i + 32), b)
        c = fma(load(w + 16 * size), load_f32(x + 4 * i + 64), c)
        d = fma(load(w + 24 * size), load_f32(x + 4 * i + 96), d)
    result = total((a + b) + (c + d))
    for i in range(whole, columns):
        result += at(weight + size * i) * f32_at(x + 4 * i)
    return result


@compiled
def dot_floats_8(load, at, size, weight, x, pitch, columns):
    """Return the dot products of two rows of a weight with four inputs, ``pitch`` bytes apart.

    Eight sums at a time keep the processor busy: the next addition to a sum must wait for the last.
    """
    a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
    b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
    following = weight + size * columns
    x1, x2, x3 = x + pitch, x + 2 * pitch, x + 3 * pitch
    whole = columns // 8 * 8
    for i in range(0, whole, 8):
        a, b = load(weight + size * i), load(following + size * i)
        v0, v1, v2, v3 = (
            load_f32(x + 4 * i),
            load_f32(x1 + 4 * i),
            load_f32(x2 + 4 * i),
            load_f32(x3 + 4 * i),
        )
        a0, a1, a2, a3 = fma(a, v0, a0), fma(a, v1, a1), fma(a, v2, a2), fma(a, v3, a3)
        b0, b1, b2, b3 = fma(b, v0, b0), fma(b, v1, b1), fma(b, v2, b2), fma(b, v3, b3)
    first = total(a0), total(a1), total(a2), total(a3)
    second = total(b0), total(b1), total(b2), total(b3)
    for i in range(whole, columns):
        wa, wb = at(weight + size * i), at(following + size * i)
        v = f32_at(x + 4 * i), f32_at(x1 + 4 * i), f32_at(x2 + 4 * i), f32_at(x3 + 4 * i)
        first = add_4(first, wa, v)
        second = add_4(second, wb, v)
    return first, second


@compiled
def add_4(sums, factor, values):
    """Return four sums with the products of a number and four others added."""
    return (
        sums[0] + factor * values[0],
        sums[1] + factor * values[1],
        sums[2] + factor * values[2],
        sums[3] + factor * values[3],
    )


@compiled
def multiply_floats(
    load, at, size, scale, scales, weight, inputs, output, first, last, columns, rows, stride, adds
):
    """The product with weights of numbers; ``scale(scales, row)`` is the factor of a row."""
    pitch = input_bytes(columns)
    zero = np.float32(0)
    m = 0
    while m < rows:
        x, y = inputs + m * pitch, output + 4 * m * stride
        row = first
        if rows - m >= 4:
            while row + 1 < last:
                w, target = weight + row * columns * size, y + 4 * row
                one, other = dot_floats_8(load, at, size, w, x, pitch, columns)
                none = zero, zero, zero, zero
                write_4_results(target, stride, add_4(none, scale(scales, row), one), adds)
                factor = scale(scales, row + 1)
                write_4_results(target + 4, stride, add_4(none, factor, other), adds)
                row += 2
            for remaining in range(row, last):
                for k in range(4):
                    w, factor = weight + remaining * columns * size, scale(scales, remaining)
                    result = factor * dot_floats(load, at, size, w, x + k * pitch, columns)
                    write_result(y + 4 * remaining + 4 * k * stride, result, adds)
            m += 4
        else:
            for row in range(first, last):
                w, factor = weight + row * columns * size, scale(scales, row)
                result = factor * dot_floats(load, at, size, w, x, columns)
                write_result(y + 4 * row, result, adds)
            m += 1


# Weights in blocks of 32 numbers: ggml's Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL. The bytes of a block hold
# the first half of its numbers in their low and the second half in their high bits, so two blocks
# are unpacked together, to 32 bytes of first halves and 32 of second ones.


@compiled
def dot_16_bits(low, high, dot_twice, x, length, group):
    """Multiply two unpacked blocks by the groups ``group`` and the next of an input: i32x8."""
    upper = x + 5 * length + 32 * group
    lower = upper + length
    return dot_twice(
        low,
        load_32_bytes(upper),
        load_32_bytes(lower),
        high,
        load_32_bytes(upper + 32),
        load_32_bytes(lower + 32),
    )


@compiled
def add_pair(low, high, step, offset, dot_twice, x, length, group, sums, offsets):
    """Add the products of two unpacked blocks with the groups ``group`` and the next of an input.

    ``step`` and ``offset`` are two numbers each, one for each block.
    """
    scale = x + 7 * length + 4 * group
    products = dot_16_bits(low, high, dot_twice, x, length, group)
    sums = fma(to_float(products), spread(step * load_pair(scale)), sums)
    return sums, fma_pair(offset, load_pair(scale + length // 8), offsets)


@compiled
def dot_pairs(unpack, scales, dot_twice, size, weight, x, length, columns):
    """Return the dot product of a weight's row with one input, whose padded length is given.

    ``unpack(block, next)`` returns the halves of two blocks, and ``scales(block, next)`` the scale
    and the offset of both, so that a number is scale * byte + offset. A block has ``size`` bytes.
    """
    sums, offsets = zeros(), zero_pair()
    count = columns // 32
    for group in range(0, count, 2):
        block = weight + size * group
        # The last block of an odd number is read twice; the input's scale there is 0.
        following = block + size if group + 1 < count else block
        prefetch(block + AHEAD)
        low, high = unpack(block, following)
        step, offset = scales(block, following)
        sums, offsets = add_pair(
            low, high, step, offset, dot_twice, x, length, group, sums, offsets
        )
    return total(sums) + total_pair(offsets)


@compiled
def prepare_scales(scales, size, weight, length, columns, memory):
    """Write the scales, and then the offsets, of a weight's row as float32 [length / 32] each."""
    count = columns // 32
    offsets = memory + length // 8
    for group in range(0, count, 2):
        block = weight + size * group
        following = block + size if group + 1 < count else block
        step, offset = scales(block, following)
        store_pair(memory + 4 * group, step)
        store_pair(offsets + 4 * group, offset)
    for group in range(count + count % 2, length // 32):  # never multiplied by anything but 0
        set_f32(memory + 4 * group, np.float32(0))
        set_f32(offsets + 4 * group, np.float32(0))


@compiled
def scale_products(memory, x, length, target):
    """Write the products of the scales of a weight's row and an input, float32 [length / 32].

    Returns the sum of the products of the offsets and the input's sums.
    """
    sums = zeros()
    scale = x + 7 * length
    for i in range(0, length // 8, 32):
        store_f32(target + i, load_f32(memory + i) * load_f32(scale + i))
        offset, least = memory + length // 8 + i, scale + length // 8 + i
        sums = fma(load_f32(offset), load_f32(least), sums)
    return total(sums)


@compiled
def add_scaled_pair(low, high, dot_twice, x, length, group, scales, sums):
    """Add the products of two unpacked blocks with an input; ``scales``: of ``scale_products``."""
    products = dot_16_bits(low, high, dot_twice, x, length, group)
    return fma(to_float(products), spread_at(scales + 4 * group), sums)


@compiled
def dot_pairs_4(unpack, scales, dot_twice, size, weight, x, pitch, length, columns, memory):
    """Return the dot products of a weight's row with four inputs, ``pitch`` bytes apart.

    The products of scales are computed first, eight at a time, into ``memory``.
    """
    prepare_scales(scales, size, weight, length, columns, memory)
    row = length // 8
    s0, s1, s2, s3 = memory + 2 * row, memory + 3 * row, memory + 4 * row, memory + 5 * row
    x1, x2, x3 = x + pitch, x + 2 * pitch, x + 3 * pitch
    o0, o1 = scale_products(memory, x, length, s0), scale_products(memory, x1, length, s1)
    o2, o3 = scale_products(memory, x2, length, s2), scale_products(memory, x3, length, s3)
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    count = columns // 32
    for group in range(0, count, 2):
        block = weight + size * group
        low, high = unpack(block, block + size if group + 1 < count else block)
        a = add_scaled_pair(low, high, dot_twice, x, length, group, s0, a)
        b = add_scaled_pair(low, high, dot_twice, x1, length, group, s1, b)
        c = add_scaled_pair(low, high, dot_twice, x2, length, group, s2, c)
        d = add_scaled_pair(low, high, dot_twice, x3, length, group, s3, d)
    return total(a) + o0, total(b) + o1, total(c) + o2, total(d) + o3


@compiled
def multiply_pairs(
    unpack,
    scales,
    dot_twice,
    size,
    weight,
    inputs,
    output,
    first,
    last,
    columns,
    rows,
    stride,
    adds,
):
    """The product with weights in blocks of 32."""
    pitch, length = input_bytes(columns), padded(columns)
    memory = inputs + rows * pitch  # the space of one more input
    for row in range(first, last):
        w, y = weight + row * (columns // 32) * size, output + 4 * row
        m = 0
        while m < rows:
            x, target = inputs + m * pitch, y + 4 * m * stride
            if rows - m >= 4:
                results = dot_pairs_4(
                    unpack, scales, dot_twice, size, w, x, pitch, length, columns, memory
                )
                write_4_results(target, stride, results, adds)
                m += 4
            else:
                result = dot_pairs(unpack, scales, dot_twice, size, w, x, length, columns)
                write_result(target, result, adds)
                m += 1


# Weights in blocks of 256 numbers: ggml's Q4_K, Q5_K and IQ4_XS, with 8 groups of 32 that have a
# scale and an offset each, and Q2_K, Q3_K and Q6_K, with 16 groups of 16.


@compiled
def add_block_of_32s(q, scales, dot, x, length, block, sums, offsets):
    """Add the products of an unpacked block with the block of an input that has its number.

    ``q``: 8 vectors of 32 bytes. ``scales``: the scales and the offsets of the 8 groups.
    """
    x8, scale = x + 4 * length + 256 * block, x + 7 * length + 32 * block
    step, offset = scales
    step = step * load_f32(scale) * broadcast(np.float32(UPPER_BYTE))
    sums = fma(to_float(dot(q[0], load_32_bytes(x8))), lane_0(step), sums)
    sums = fma(to_float(dot(q[1], load_32_bytes(x8 + 32))), lane_1(step), sums)
    sums = fma(to_float(dot(q[2], load_32_bytes(x8 + 64))), lane_2(step), sums)
    sums = fma(to_float(dot(q[3], load_32_bytes(x8 + 96))), lane_3(step), sums)
    sums = fma(to_float(dot(q[4], load_32_bytes(x8 + 128))), lane_4(step), sums)
    sums = fma(to_float(dot(q[5], load_32_bytes(x8 + 160))), lane_5(step), sums)
    sums = fma(to_float(dot(q[6], load_32_bytes(x8 + 192))), lane_6(step), sums)
    sums = fma(to_float(dot(q[7], load_32_bytes(x8 + 224))), lane_7(step), sums)
    return sums, fma(offset, load_f32(scale + length // 4), offsets)


@compiled
def add_block_of_16s(q, scales, dot, x, length, block, sums, offsets):
    """Add the products of an unpacked block with 16 groups.

    ``scales``: the scales of the first and the last 8 groups, and their offsets likewise. A ``dot``
    of 32 bytes has the sums of the first group in its first four numbers.
    """
    x8, scale = x + 4 * length + 256 * block, x + 7 * length + 32 * block
    least = x + 7 * length + 3 * length // 8 + 64 * block
    step, further, offset, further_offset = scales
    scale_8 = load_f32(scale) * broadcast(np.float32(UPPER_BYTE))
    step = step * twice_low(scale_8)
    further = further * twice_high(scale_8)
    sums = fma(to_float(dot(q[0], load_32_bytes(x8))), lanes_0(step), sums)
    sums = fma(to_float(dot(q[1], load_32_bytes(x8 + 32))), lanes_2(step), sums)
    sums = fma(to_float(dot(q[2], load_32_bytes(x8 + 64))), lanes_4(step), sums)
    sums = fma(to_float(dot(q[3], load_32_bytes(x8 + 96))), lanes_6(step), sums)
    sums = fma(to_float(dot(q[4], load_32_bytes(x8 + 128))), lanes_0(further), sums)
    sums = fma(to_float(dot(q[5], load_32_bytes(x8 + 160))), lanes_2(further), sums)
    sums = fma(to_float(dot(q[6], load_32_bytes(x8 + 192))), lanes_4(further), sums)
    sums = fma(to_float(dot(q[7], load_32_bytes(x8 + 224))), lanes_6(further), sums)
    offsets = fma(offset, load_f32(least), offsets)
    return sums, fma(further_offset, load_f32(least + 32), offsets)


@compiled
def dot_blocks(add_block, unpack, scales, dot, size, weight, x, length, columns):
    """Return the dot product of a weight's row with one input."""
    sums, offsets = zeros(), zeros()
    for number in range(columns // 256):
        block = weight + size * number
        prefetch(block + AHEAD)
        prefetch(block + AHEAD + 64)
        sums, offsets = add_block(
            unpack(block), scales(block), dot, x, length, number, sums, offsets
        )
    return total(sums + offsets)


@compiled
def dot_blocks_4(add_block, unpack, scales, dot, size, weight, x, pitch, length, columns):
    """Return the dot products of a weight's row with four inputs, ``pitch`` bytes apart."""
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    oa, ob, oc, od = zeros(), zeros(), zeros(), zeros()
    for number in range(columns // 256):
        block = weight + size * number
        q, steps = unpack(block), scales(block)
        a, oa = add_block(q, steps, dot, x, length, number, a, oa)
        b, ob = add_block(q, steps, dot, x + pitch, length, number, b, ob)
        c, oc = add_block(q, steps, dot, x + 2 * pitch, length, number, c, oc)
        d, od = add_block(q, steps, dot, x + 3 * pitch, length, number, d, od)
    return total(a + oa), total(b + ob), total(c + oc), total(d + od)


@compiled
def multiply_blocks(
    add_block, unpack, scales, dot, size, weight, inputs, output, first, last, columns, rows,
    stride, adds,
):  # fmt: skip
    """The product with weights in blocks of 256; ``add_block`` is one of the two above."""
    pitch, length = input_bytes(columns), padded(columns)
    for row in range(first, last):
        w, y = weight + row * (columns // 256) * size, output + 4 * row
        m = 0
        while m < rows:
            x, target = inputs + m * pitch, y + 4 * m * stride
            if rows - m >= 4:
                results = dot_blocks_4(
                    add_block, unpack, scales, dot, size, w, x, pitch, length, columns
                )
                write_4_results(target, stride, results, adds)
                m += 4
            else:
                result = dot_blocks(add_block, unpack, scales, dot, size, w, x, length, columns)
                write_result(target, result, adds)
                m += 1


# Widening to float32, for long prompts and embeddings


@compiled
def widen_pairs(unpack, scales, size, weight, output, first, last, columns):
    """Write the rows [first, last) of a weight in blocks of 32 as float32."""
    count = columns // 32
    for row in range(first, last):
        w, y = weight + row * count * size, output + 4 * (row - first) * columns
        for group in range(count):
            block = w + size * group
            low, high = unpack(block, block)  # both blocks are the same
            step, offset = scales(block, block)
            steps, offsets = spread(step), spread(offset)
            target = y + 128 * group
            store_f32(target, fma(quarter_0(low), steps, offsets))
            store_f32(target + 32, fma(quarter_1(low), steps, offsets))
            store_f32(target + 64, fma(quarter_0(high), steps, offsets))
            store_f32(target + 96, fma(quarter_1(high), steps, offsets))


@compiled
def widen_32(output, q, step, offset):
    """Write 32 bytes as float32: byte * step + offset."""
    store_f32(output, fma(quarter_0(q), step, offset))
    store_f32(output + 32, fma(quarter_1(q), step, offset))
    store_f32(output + 64, fma(quarter_2(q), step, offset))
    store_f32(output + 96, fma(quarter_3(q), step, offset))


@compiled
def widen_block_of_32s(q, scales, output):
    """Write an unpacked block with 8 groups as float32."""
    step, offset = scales
    widen_32(output, q[0], lane_0(step), lane_0(offset))
    widen_32(output + 128, q[1], lane_1(step), lane_1(offset))
    widen_32(output + 256, q[2], lane_2(step), lane_2(offset))
    widen_32(output + 384, q[3], lane_3(step), lane_3(offset))
    widen_32(output + 512, q[4], lane_4(step), lane_4(offset))
    widen_32(output + 640, q[5], lane_5(step), lane_5(offset))
    widen_32(output + 768, q[6], lane_6(step), lane_6(offset))
    widen_32(output + 896, q[7], lane_7(step), lane_7(offset))


@compiled
def widen_16s(output, q, steps, offsets):
    """Write 32 bytes of two groups; the numbers 0 and 7 of steps and offsets are theirs."""
    store_f32(output, fma(quarter_0(q), lane_0(steps), lane_0(offsets)))
    store_f32(output + 32, fma(quarter_1(q), lane_0(steps), lane_0(offsets)))
    store_f32(output + 64, fma(quarter_2(q), lane_7(steps), lane_7(offsets)))
    store_f32(output + 96, fma(quarter_3(q), lane_7(steps), lane_7(offsets)))


@compiled
def widen_block_of_16s(q, scales, output):
    """Write an unpacked block with 16 groups as float32."""
    step, further, offset, further_offset = scales
    widen_16s(output, q[0], lanes_0(step), lanes_0(offset))
    widen_16s(output + 128, q[1], lanes_2(step), lanes_2(offset))
    widen_16s(output + 256, q[2], lanes_4(step), lanes_4(offset))
    widen_16s(output + 384, q[3], lanes_6(step), lanes_6(offset))
    widen_16s(output + 512, q[4], lanes_0(further), lanes_0(further_offset))
    widen_16s(output + 640, q[5], lanes_2(further), lanes_2(further_offset))
    widen_16s(output + 768, q[6], lanes_4(further), lanes_4(further_offset))
    widen_16s(output + 896, q[7], lanes_6(further), lanes_6(further_offset))


@compiled
def widen_blocks(widen_block, unpack, scales, size, weight, output, first, last, columns):
    """Write the rows [first, last) of a weight in blocks of 256 as float32."""
    count = columns // 256
    for row in range(first, last):
        w, y = weight + row * count * size, output + 4 * (row - first) * columns
        for number in range(count):
            block = w + size * number
            widen_block(unpack(block), scales(block), y + 1024 * number)
