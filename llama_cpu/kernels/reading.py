"""Loops that only read memory: what they reach is the most that a product could.

Each writes the sum of the float32 in ``size`` bytes, a multiple of 128.
"""

from llama_cpu.kernels.products import AHEAD
from llama_cpu.kernels.simd import load_f32, prefetch, set_f32, total, zeros


def read_in_order(values, size, result):
    """Read from first to last."""
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    for i in range(values, values + size, 128):
        prefetch(i + AHEAD)
        prefetch(i + AHEAD + 64)
        a = a + load_f32(i)
        b = b + load_f32(i + 32)
        c = c + load_f32(i + 64)
        d = d + load_f32(i + 96)
    set_f32(result, total((a + b) + (c + d)))


def read_four_streams(values, size, result):
    """Read at four places in turn.

    One place does not keep enough requests to the memory under way on every processor.
    """
    quarter = size // 4
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    for i in range(values, values + quarter, 32):
        a = a + load_f32(i)
        b = b + load_f32(i + quarter)
        c = c + load_f32(i + 2 * quarter)
        d = d + load_f32(i + 3 * quarter)
    set_f32(result, total((a + b) + (c + d)))
