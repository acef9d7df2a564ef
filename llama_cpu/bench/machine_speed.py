"""The speeds of this machine: bytes read from memory and operations of matrix products per second.

No program can decode faster than the weights are read, or read a prompt faster than the products
can be computed, so these speeds are the limits that a measured speed is compared with. Each speed
is that of the fastest way found among several. Importing this module imports neither PyTorch nor
Numba; without compiled kernels, memory is read by NumPy and PyTorch alone.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

READ_BYTES = 1 << 30  # more than any processor's cache
ROWS, INNER, COLUMNS = 1024, 4096, 4096  # of a large product [ROWS, INNER] x [INNER, COLUMNS]
_FEW_ROWS = 128  # of the product with which the fastest way is found
_LONGEST_SECONDS = 1.0  # a product that would take longer is measured with few rows
_HOPELESS = 5.0
_TRIES = 3

# Types in which the product of a precision may be computed: a matrix may be widened first, and
# quantized weights may be multiplied in any type.
_ANY_TYPE = ("int8", "bf16", "float32")
_AT_LEAST_AS_WIDE = {"float32": ("float32",), "bf16": ("bf16", "float32")}

Work = Callable[[], object]


@dataclass(frozen=True)
class MachineSpeed:
    """Measured speeds: bytes read per second, and operations per second by type."""

    read: float
    float32: float
    bf16: float
    int8: float

    def peak(self, precision: str) -> float:
        """Return the operations per second with weights of a format, which its label names."""
        by_type = {"float32": self.float32, "bf16": self.bf16, "int8": self.int8}
        return max(by_type[kind] for kind in _AT_LEAST_AS_WIDE.get(precision, _ANY_TYPE))


def seconds_of(work: Work) -> float:
    """Return the seconds that one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_seconds(work: Work, tries: int = _TRIES) -> float:
    """Return the seconds of the fastest of ``tries`` calls."""
    return min(seconds_of(work) for _ in range(tries))


class MemoryReader:
    """Reads an array of ``nbytes``, in the way that is the fastest on this machine.

    ``way`` is its name: a kernel that only reads or NumPy's sum, in each thread, or PyTorch's
    product of a matrix and a vector. ``nbytes`` must be much more than the caches hold.
    """

    def __init__(self, threads: int, nbytes: int = READ_BYTES) -> None:
        import numpy as np

        self.nbytes = nbytes // (4 * INNER * threads) * (4 * INNER * threads)
        values = np.ones(self.nbytes // 4, np.float32)
        self._pool = ThreadPoolExecutor(threads)
        ways = self._ways(values, threads)
        self.seconds_by_way = _seconds_by_way(ways)
        self.way = min(self.seconds_by_way, key=self.seconds_by_way.__getitem__)
        self._work = ways[self.way]

    def __call__(self) -> float:
        """Read the array once, and return the bytes read per second."""
        return self.nbytes / seconds_of(self._work)

    def best(self, tries: int = _TRIES) -> float:
        """Return the bytes read per second in the fastest of ``tries`` readings."""
        return max(self() for _ in range(tries))

    def _ways(self, values: Any, threads: int) -> dict[str, Work]:
        import numpy as np
        import torch

        from llama_cpu.kernels.compiler import KernelError

        def in_threads(read: Callable[[Any], object], array: Any) -> Work:
            parts = np.array_split(array, threads)
            return lambda: list(self._pool.map(read, parts))

        matrix, vector = torch.from_numpy(values).view(-1, INNER), torch.ones(INNER)
        ways: dict[str, Work] = {
            "numpy sum": in_threads(np.sum, values),
            "torch.mv": lambda: torch.mv(matrix, vector),
        }
        with contextlib.suppress(KernelError):
            for name, read in _reading_kernels().items():
                ways[f"kernel {name}"] = in_threads(read, values)
        return ways


def _reading_kernels() -> dict[str, Callable[[Any], float]]:
    """Return functions of a float32 array that read it and return its sum. Raises KernelError."""
    import ctypes

    from llama_cpu.kernels import compiler

    def reader(name: str) -> Callable[[Any], float]:
        kernel = compiler.kernel(f"reading.{name}", 3)

        def read(values: Any) -> float:
            result = ctypes.c_float()
            kernel(values.ctypes.data, values.nbytes, ctypes.addressof(result))
            return result.value

        return read

    return {name: reader(name) for name in ("read_in_order", "read_four_streams")}


class FastestProduct:
    """A large matrix product in one type, by the fastest of several operators; ``way`` names it.

    ``makers``: for each operator a function of a number of rows that returns the product to time.
    An operator that this processor or this PyTorch lacks raises RuntimeError or AttributeError and
    is left out.
    """

    def __init__(self, makers: Mapping[str, Callable[[int], Work]]) -> None:
        works = {}
        for name, make in makers.items():
            with contextlib.suppress(RuntimeError, AttributeError):
                work = make(_FEW_ROWS)
                work()
                works[name] = work
        self.seconds_by_way = _seconds_by_way(works)  # with few rows
        self.way = min(self.seconds_by_way, key=self.seconds_by_way.__getitem__)
        expected = self.seconds_by_way[self.way] * ROWS / _FEW_ROWS
        self._rows = ROWS if expected < _LONGEST_SECONDS else _FEW_ROWS
        self._work = makers[self.way](self._rows)

    def __call__(self) -> float:
        """Return the operations per second in the fastest of a few calls."""
        return 2 * self._rows * INNER * COLUMNS / best_seconds(self._work)


def fastest_products(threads: int) -> dict[str, FastestProduct]:
    """Return the fastest product in "float32", "bf16" and "int8" with this number of threads.

    Sets PyTorch's number of threads.
    """
    import torch

    torch.set_num_threads(threads)
    return {
        "float32": FastestProduct(_float32_makers(threads)),
        "bf16": FastestProduct(_float_makers(torch.bfloat16)),
        "int8": FastestProduct(_int8_makers()),
    }


def _float_makers(dtype: Any) -> dict[str, Callable[[int], Work]]:
    import torch
    import torch.nn.functional as F

    from llama_cpu.system import torch_private

    weight = torch.randn(COLUMNS, INNER).to(dtype)

    def linear(rows: int) -> Work:
        x = torch.randn(rows, INNER).to(dtype)
        return lambda: F.linear(x, weight)

    def packed(rows: int) -> Work:
        if not torch_private.has_onednn():
            raise RuntimeError("this PyTorch has no oneDNN")
        x, in_blocks = torch.randn(rows, INNER).to(dtype), torch_private.pack_linear(weight, rows)
        return lambda: torch_private.packed_linear(x, in_blocks)

    return {"F.linear": linear, "packed oneDNN": packed}


def _float32_makers(threads: int) -> dict[str, Callable[[int], Work]]:
    import numpy as np
    import torch

    makers = _float_makers(torch.float32)

    def in_numpy(rows: int) -> Work:
        left = np.ones((rows, INNER), np.float32)
        right = np.ones((INNER, COLUMNS), np.float32)
        return lambda: left @ right

    if threads == _numpy_threads():
        makers["numpy"] = in_numpy
    return makers


def _numpy_threads() -> int:
    """Return the number of threads of NumPy's BLAS, which NumPy itself does not tell."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _int8_makers() -> dict[str, Callable[[int], Work]]:
    import torch

    from llama_cpu.system import torch_private

    def random(*shape: int) -> torch.Tensor:
        # 7 bits: without VNNI, sums of two larger products overflow and are computed more slowly.
        return torch.randint(-63, 64, shape, dtype=torch.int8)

    weight = random(COLUMNS, INNER)

    def plain(rows: int) -> Work:
        x = random(rows, INNER)
        return lambda: torch_private.int8_matmul(x, weight.T)

    def packed(rows: int) -> Work:
        if not torch_private.has_onednn():
            raise RuntimeError("this PyTorch has no oneDNN")
        x = random(rows, INNER).view(torch.uint8)
        scale, zero_points = torch.ones(COLUMNS), torch.zeros(COLUMNS, dtype=torch.int64)
        in_blocks = torch_private.pack_int8_linear(weight)
        return lambda: torch_private.packed_int8_linear(x, in_blocks, scale, zero_points)

    return {"torch._int_mm": plain, "packed oneDNN": packed}


def _seconds_by_way(works: Mapping[str, Work]) -> dict[str, float]:
    """Return the seconds of each way's fastest call.

    They take turns, as speeds change. A way that is several times as slow has one call only.
    """
    seconds = {name: best_seconds(work, 1) for name, work in works.items()}
    close = [name for name in works if seconds[name] < _HOPELESS * min(seconds.values())]
    for _ in range(_TRIES):
        for name in close:
            seconds[name] = min(seconds[name], seconds_of(works[name]))
    return seconds
