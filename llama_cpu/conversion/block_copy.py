"""Copying of tensors to their offsets in a file, in blocks, with a few threads.

Each block is read, checksummed and written by one thread, so that it stays in that core's cache.
Two threads keep disk and processor busy at the same time. Memory use is one block per thread,
whatever the size of the model.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from queue import SimpleQueue
from typing import NamedTuple

import torch

from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.system.file_io import write_at

try:
    from isal.isal_zlib import crc32  # ten times as fast as zlib's, which would be the bottleneck
except ImportError:  # not available for this processor or version of Python
    from zlib import crc32

BLOCK_BYTES = 1 << 20  # fits a core's cache; with 32 MiB, copying takes 1.5 times as long
_THREADS = 2  # with more threads, reads are so far apart that the system no longer reads ahead
_BLOCKS_WAITING = 8  # maximum number of submitted blocks that are not finished

OnBytes = Callable[[int], None]  # called with the number of bytes just written


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor with the dtype and the byte offset at which it is written."""

    tensor: StoredTensor
    dtype: torch.dtype
    start: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.tensor.shape[1:]) * self.dtype.itemsize


class _Block(NamedTuple):
    rows: StoredTensor
    dtype: torch.dtype
    start: int
    size: int  # bytes


def copy_tensors(
    file: FileIO, placed: Sequence[PlacedTensor], on_bytes: OnBytes, checksums: bool = True
) -> list[int]:
    """Write every tensor, row-major, at its offset in ``file``, and return their CRC-32 checksums.

    Without ``checksums`` all of them are 0.

    Raises UserError if a source cannot be read, OSError if the file cannot be written.
    """
    results = [0] * len(placed)
    buffers: SimpleQueue[torch.Tensor] = SimpleQueue()
    buffer_bytes = max([BLOCK_BYTES, *(tensor.row_bytes for tensor in placed)])
    for _ in range(_THREADS):
        buffers.put(torch.empty(buffer_bytes, dtype=torch.uint8))
    pending: deque[tuple[int, int, Future[int]]] = deque()

    def finish_oldest() -> None:
        index, size, checksum = pending.popleft()
        result = checksum.result()
        if checksums:
            results[index] = combine_crc32(results[index], result, size)
        on_bytes(size)

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # blocks are processed in parallel instead
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for index, tensor in enumerate(placed):
            for block in _blocks(tensor):
                pending.append(
                    (index, block.size, pool.submit(_copy, file, block, buffers, checksums))
                )
                if len(pending) > _BLOCKS_WAITING:
                    finish_oldest()
        while pending:
            finish_oldest()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)
    return results


def _blocks(placed: PlacedTensor) -> Iterator[_Block]:
    rows, row_bytes = placed.tensor.shape[0], placed.row_bytes
    step = max(1, BLOCK_BYTES // row_bytes)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        yield _Block(
            placed.tensor.rows(first, last),
            placed.dtype,
            placed.start + first * row_bytes,
            (last - first) * row_bytes,
        )


def _copy(file: FileIO, block: _Block, buffers: SimpleQueue[torch.Tensor], checksum: bool) -> int:
    buffer = buffers.get()
    try:
        data = buffer[: block.size]
        block.rows.fill(data.view(block.dtype).view(block.rows.shape))
        data_bytes = data.numpy().data
        write_at(file, block.start, data_bytes)
        return crc32(data_bytes) if checksum else 0
    finally:
        buffers.put(buffer)


# The CRC-32 of two concatenated pieces can be computed from the CRC-32 of each. A CRC is the
# remainder of the bytes as a polynomial over GF(2), so the first one only has to be multiplied by
# x^(8 * length of the second). Bits are in reversed order: 1 << 31 is the polynomial 1, 1 << 30
# is x.
_POLYNOMIAL = 0xEDB88320


def combine_crc32(first: int, second: int, second_length: int) -> int:
    """Return the CRC-32 of A + B from the checksums of A and B and the length of B in bytes."""
    return _multiply(_power_of_x(8 * second_length), first) ^ second


def _multiply(one: int, other: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _power_of_x(exponent: int) -> int:
    power, square = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        exponent >>= 1
    return power
