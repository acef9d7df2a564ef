"""Products by compiled kernels for a few rows, and by PyTorch for many."""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.kernels.layout import MOST_ROWS
from llama_cpu.kernels.linear import FewRows, KernelMatrix
from llama_cpu.weights.linear import Linear

FEW_ROWS = 16  # rows up to which a kernel is used, unless measurement says otherwise
_WIDENED_BYTES = 16 << 20  # rows that are widened at a time: they stay in the processor's cache


class KernelLinear:
    """The product with a matrix that stays as it is in memory.

    A kernel multiplies up to ``few_rows`` rows, and ``many`` multiplies more. A model whose
    products are all of this class can run a whole pass as one kernel (``model/fused.py``).
    """

    def __init__(self, matrix: KernelMatrix, many: Linear, few_rows: int = FEW_ROWS) -> None:
        assert few_rows <= MOST_ROWS
        self.matrix = matrix
        self.few_rows = few_rows
        self._few = FewRows(matrix, torch.get_num_threads())
        self._many = many

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        if x.shape[0] <= self.few_rows:
            return self._few(x.float())
        return self._many(x).float()


class WidenedLinear:
    """The product of many rows with a matrix that a kernel widens to float32, part by part."""

    def __init__(self, matrix: KernelMatrix) -> None:
        self._matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        x, matrix = x.float(), self._matrix
        result = torch.empty(x.shape[0], matrix.out)
        step = max(64, _WIDENED_BYTES // (4 * matrix.columns))
        buffer = torch.empty(min(step, matrix.out), matrix.columns)
        for first in range(0, matrix.out, step):
            last = min(first + step, matrix.out)
            rows = buffer[: last - first]
            matrix.widen(first, last, rows)
            result[:, first:last] = F.linear(x, rows)
        return result


def kernel_product(kind: str, many: Callable[[Tensor], Linear]) -> Callable[[Tensor], KernelLinear]:
    """Return the function that makes the product with an unpacked weight [out, in].

    ``kind``: the kernels' name for its dtype. ``many``: makes the product of many rows.
    """

    def make(weight: Tensor) -> KernelLinear:
        return KernelLinear(KernelMatrix(kind, weight, *weight.shape), many(weight))

    return make


_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def float_product(weight: Tensor) -> KernelLinear:
    """Return the product with a weight of floats [out, in]; inputs are not rounded."""
    matrix = KernelMatrix(_KINDS[weight.dtype], weight, *weight.shape)
    return KernelLinear(matrix, WidenedLinear(matrix))


@cache
def kernels_work() -> bool:
    """Return whether kernels can be compiled here and multiply right."""
    try:
        import llvmlite  # noqa: F401

        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(48, 80, generator=generator)
        x = torch.randn(3, 80, generator=generator)
        product = FewRows(KernelMatrix("F32", weight, 48, 80), torch.get_num_threads())(x)
    except (ImportError, OSError, RuntimeError):  # no Numba for this Python, no executable memory
        return False
    return torch.allclose(product, x @ weight.T, rtol=1e-4, atol=1e-4)
