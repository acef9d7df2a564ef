"""Products of many rows with a float32 weight, which products of all formats can hold.

A weight of another type is widened to float32 first. Two ways to multiply are known, and which is
faster depends on the processor, so a product that uses one of them has a variant that uses the
other (``packing_variant``), and the choice is measured.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.system import torch_private
from llama_cpu.weights.linear import Linear
from llama_cpu.weights.operations import Product, W

# Number of rows from which packing a weight for one product may pay off: packing 11008 x 4096 takes
# as long as a product of about 25 rows on AMD Zen 3.
MANY_ROWS = 64
# Bytes of a weight that are packed at a time. The C allocator reuses the memory of such blocks; it
# would return that of a whole large matrix to the system, which took longer than the product.
_BLOCK_BYTES = 16 << 20

# (float32 x [rows, in], float32 weight [out, in]) -> float32 [rows, out]
MultiplyWidened = Callable[[Tensor, Tensor], Tensor]


def multiply_plain(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply by the weight as it is."""
    return F.linear(x, weight)


def multiply_packing(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply by the weight; for many rows, pack it in oneDNN's layout just for this product.

    On some processors (AMD Zen 4 and 5) MKL, which ``F.linear`` calls, reaches half the speed of
    oneDNN. The weight is packed in blocks of its rows.
    """
    if x.shape[0] < MANY_ROWS:
        return F.linear(x, weight)
    block_rows = max(64, _BLOCK_BYTES // (4 * weight.shape[1]) // 64 * 64)
    if weight.shape[0] <= block_rows:
        return _multiply_packed(x, weight)
    product = x.new_empty(x.shape[0], weight.shape[0])
    blocks = zip(
        torch.split(weight, block_rows), torch.split(product, block_rows, dim=1), strict=True
    )
    for block, columns in blocks:
        columns.copy_(_multiply_packed(x, block))
    return product


def _multiply_packed(x: Tensor, weight: Tensor) -> Tensor:
    return torch_private.packed_linear(x, torch_private.pack_linear(weight, 1))


def packing_variant(
    product: Product[W], make: Callable[[W, MultiplyWidened], Linear]
) -> Product[W]:
    """Return the variant of ``product`` that multiplies many rows with ``multiply_packing``.

    ``make(weight, multiply)`` makes the product with a way to multiply many rows, and must do the
    same as ``product`` for fewer than ``MANY_ROWS``.
    """
    return replace(
        product,
        name=f"{product.name}, packed on the way",
        make=lambda weight: make(weight, multiply_packing),
        few_rows_as=product.name,
        works=lambda: product.works() and packing_works(),
    )


@cache
def packing_works() -> bool:
    """Return whether oneDNN's packed float32 product gives the right result for small matrices."""
    if not torch_private.has_onednn():
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 80, generator=generator)
    x = torch.randn(MANY_ROWS, 80, generator=generator)
    try:
        packed = torch_private.pack_linear(weight, 1)
        few = torch_private.packed_linear(x[:3], packed)
        many = torch_private.packed_linear(x, packed)
    except (RuntimeError, AttributeError):  # no such instructions, no such operator
        return False
    expected = x @ weight.T
    return all(
        torch.allclose(product, expected[: len(product)], rtol=1e-4, atol=1e-4)
        for product in (few, many)
    )
