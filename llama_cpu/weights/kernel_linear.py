"""Products by compiled kernels for a few rows, and by PyTorch for many."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from llama_cpu.errors import UserError
from llama_cpu.kernels import compiler
from llama_cpu.kernels.formats import FORMATS
from llama_cpu.kernels.layout import MOST_ROWS
from llama_cpu.kernels.linear import FewRows, KernelMatrix
from llama_cpu.weights.linear import Linear
from llama_cpu.weights.many_rows import (
    MANY_ROWS,
    MultiplyWidened,
    multiply_plain,
    packing_variant,
)
from llama_cpu.weights.operations import Product, W

FEW_ROWS = MANY_ROWS - 1  # rows up to which a kernel is used, unless others are measured faster
_WIDENED_BYTES = 16 << 20  # rows that are widened at a time: they stay in the processor's cache


class KernelLinear:
    """The product with a matrix that stays as it is in memory.

    A kernel multiplies up to ``few_rows`` rows, and ``many`` multiplies more. A model whose
    products are all of this class can run a whole pass as one kernel (``model/fused.py``). The
    kernel is compiled at its first use; if it does not work, ``many`` multiplies all rows.
    """

    def __init__(self, matrix: KernelMatrix, many: Linear, few_rows: int = FEW_ROWS) -> None:
        assert few_rows <= MOST_ROWS
        self.matrix = matrix
        self.few_rows = few_rows
        self.many = many

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        if x.shape[0] > self.few_rows:
            return self.many(x).float()
        try:
            return self.few(x.float())
        except compiler.KernelError:
            self.few_rows = 0
            return self.many(x).float()

    @cached_property
    def few(self) -> FewRows:
        """The product of a few rows. Raises KernelError if it cannot be compiled."""
        return FewRows(self.matrix, torch.get_num_threads())


class WidenedLinear:
    """The product of many rows with a matrix that a kernel widens to float32, part by part."""

    def __init__(self, matrix: KernelMatrix, multiply: MultiplyWidened) -> None:
        self._matrix, self._multiply = matrix, multiply

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
            result[:, first:last] = self._multiply(x, rows)
        return result


KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def float_matrix(weight: Tensor) -> KernelMatrix:
    """Return a weight of floats [out, in] as kernels read it."""
    return KernelMatrix(KINDS[weight.dtype], weight, *weight.shape)


def kernel_products(
    matrix_of: Callable[[W], KernelMatrix], many: Sequence[Product[W]]
) -> Iterator[Product[W]]:
    """Yield products by a kernel that leave many rows to each of the products ``many``.

    These must work in place, and the first of them on every processor. ``matrix_of`` returns a
    weight as kernels read it.
    """
    first = ""
    for product in many:
        name = f"kernel, then {product.name}"
        yield Product(
            name,
            partial(_make, matrix_of, product.make),
            in_place=True,
            uses_kernels=True,
            widens=product.widens,
            few_rows_as=first,
            rows_at_once=4,
            works=partial(_works, product.works),
        )
        first = first or name


def _make(
    matrix_of: Callable[[W], KernelMatrix], make: Callable[[W], Linear], weight: W
) -> KernelLinear:
    return KernelLinear(matrix_of(weight), make(weight))


def _works(many_work: Callable[[], bool]) -> bool:
    return compiler.works() and many_work()


def with_few_rows(product: Product[W], few_rows: int) -> Product[W]:
    """Return the product with kernels, if it has any, that multiply up to ``few_rows`` rows."""
    if not product.uses_kernels or few_rows == FEW_ROWS:
        return product

    def make(weight: W) -> Linear:
        linear = product.make(weight)
        assert isinstance(linear, KernelLinear)
        linear.few_rows = few_rows
        return linear

    return replace(product, make=make)


def widened_products(matrix_of: Callable[[W], KernelMatrix]) -> Iterator[Product[W]]:
    """Yield products by a kernel for weights of which PyTorch knows no product.

    For many rows, kernels widen the weight to float32.
    """

    def make(weight: W, multiply: MultiplyWidened = multiply_plain) -> KernelLinear:
        matrix = matrix_of(weight)
        return KernelLinear(matrix, WidenedLinear(matrix, multiply))

    plain = Product(
        "kernel", make, in_place=True, rows_at_once=4, works=compiler.works, uses_kernels=True
    )
    yield plain
    yield packing_variant(plain, make)


def numba_needed(switch: str) -> UserError:
    """Return the error for an option that cannot do without kernels."""
    return UserError(
        f"{switch} needs Numba, which is missing or does not work here; install it with: "
        "pip install numba."
    )


_MOST_WRONG = 0.05  # of the length of a product; inputs in 8 bits cost up to 0.01
_right: set[str] = set()  # the kinds that have been checked


def require_right(linears: Sequence[KernelLinear]) -> None:
    """Compare the smallest product of each kind of matrix with that for many rows.

    A kind is checked once. Raises KernelError if the kernel multiplies wrong, after which it is not
    used any more.
    """
    for linear in sorted(linears, key=lambda linear: linear.matrix.values.nbytes):
        kind = linear.matrix.kind
        if kind not in _right:
            _require_right(linear)
            _right.add(kind)


def _require_right(linear: KernelLinear) -> None:
    x = torch.randn(3, linear.matrix.columns, generator=torch.Generator().manual_seed(0))
    expected, name = linear.many(x).float(), FORMATS[linear.matrix.kind].multiply
    wrong = (linear.few(x) - expected).norm() / expected.norm().clamp_min(1e-20)
    if expected.isfinite().all() and not wrong <= _MOST_WRONG:  # damaged weights: not its fault
        compiler.reject(name, "it multiplies wrong")
        raise compiler.KernelError(f"The kernel {name} multiplies wrong on this processor.")
