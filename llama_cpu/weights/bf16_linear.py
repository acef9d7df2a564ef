"""Products with bfloat16 weights.

Activations and results are rounded to bfloat16, unless the weight is widened to float32.
"""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.system import torch_private
from llama_cpu.weights.float32_linear import stacked
from llama_cpu.weights.kernel_linear import KernelLinear, float_matrix, kernel_products
from llama_cpu.weights.linear import SCRATCH, Linear, Output, take_rows
from llama_cpu.weights.many_rows import MultiplyWidened, multiply_plain, packing_variant
from llama_cpu.weights.operations import (
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)


class Bfloat16Linear:
    """The product with an unpacked bfloat16 weight, in memory or mapped from a file.

    For one row, ``torch.mv`` reads the weight at nearly memory bandwidth and takes half the time of
    float32. ``F.linear`` in bfloat16 did not reach that speed on any processor measured.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> bfloat16 [rows, out]."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0].bfloat16()).unsqueeze(0)
        return F.linear(x.bfloat16(), self.weight)


class WidenedBfloat16Linear:
    """The product with an unpacked bfloat16 weight, widened to float32 for several rows.

    On a processor without bfloat16 instructions, a bfloat16 product of many rows takes several
    times as long as widening the weight and multiplying in float32.
    """

    def __init__(self, weight: Tensor, multiply: MultiplyWidened = multiply_plain) -> None:
        self.weight = weight  # [out, in]
        self._multiply = multiply

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> [rows, out], bfloat16 for one row, else float32."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0].bfloat16()).unsqueeze(0)
        return self._multiply(x.float(), SCRATCH.widened(self.weight))


class PackedBfloat16Linear:
    """The product with a packed copy of the weight in oneDNN's layout.

    On a processor with bfloat16 instructions, one row takes 10% less time than with ``torch.mv``,
    whose arithmetic is hardly faster than the memory. Eight rows take little more than one, and two
    thirds of the time of ``F.linear``, which rearranges the weight in every product. 512 rows take
    10% more time than ``F.linear`` at the width of the 7B model.
    """

    def __init__(self, weight: Tensor) -> None:
        # Packed for one row. Packing for 512 rows would make these 3% faster, but one row 10%
        # slower.
        self._packed = torch_private.pack_linear(weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> bfloat16 [rows, out]."""
        return torch_private.packed_linear(x.bfloat16(), self._packed)


class Bfloat16Output:
    """The output product of the model: bfloat16, with the best logits recomputed in float32.

    bfloat16 has 8 bits of precision, so the best tokens would often tie. The fast product
    finds the candidates, and their logits are then recomputed in float32.
    """

    CANDIDATES = 64

    def __init__(self, weight: Tensor, product: Linear) -> None:
        self._weight = weight
        self._product = product

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, dim] -> float32 logits [rows, vocab]."""
        logits = self._product(x).float()
        best = logits.topk(min(self.CANDIDATES, logits.shape[1])).indices
        for row, ids in enumerate(best):
            logits[row, ids] = torch.mv(take_rows(self._weight, ids), x[row])
        return logits


@cache
def packing_works() -> bool:
    """Return whether oneDNN's packed product works here; it needs AVX-512 or newer instructions."""
    if not torch_private.has_onednn():
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 80, generator=generator).bfloat16()
    x = torch.randn(3, 80, generator=generator).bfloat16()
    try:
        product = PackedBfloat16Linear(weight)(x)
    except (RuntimeError, AttributeError):  # no such instructions, no such operator
        return False
    return torch.allclose(product.float(), x.float() @ weight.float().T, rtol=2**-7, atol=1e-3)


def _mappable(stored: StoredMatrix) -> StoredMatrix | None:
    is_bf16 = stored.dtype == torch.bfloat16
    return stored if is_bf16 and stored.mapped() is not None else None


def _convert(stored: Sequence[StoredMatrix], new: NewTensor) -> Tensor:
    return stacked(stored, new, torch.bfloat16)


def _output_product(choice: ProductChoice[Tensor], tied: bool) -> Product[Tensor]:
    """Return the in-place product: ``Bfloat16Output`` takes rows from the unpacked weight."""
    return choice.in_place


def _make_output(weight: Tensor, product: Product[Tensor]) -> Output:
    """Return the output product; kernels round neither inputs nor logits."""
    linear = product.make(weight)
    return linear if isinstance(linear, KernelLinear) else Bfloat16Output(weight, linear)


_PLAIN = Product("plain", Bfloat16Linear, in_place=True, rows_at_once=8)
_WIDENED = Product("widened", WidenedBfloat16Linear, in_place=True, widens=True)
_PACKING = packing_variant(_WIDENED, WidenedBfloat16Linear)

OPERATIONS = Operations(
    products=(
        *kernel_products(float_matrix, (_PLAIN, _WIDENED, _PACKING)),
        Product(
            "packed", PackedBfloat16Linear, in_place=False, rows_at_once=8, works=packing_works
        ),
        _PLAIN,
        _WIDENED,
        _PACKING,
    ),
    mappable=_mappable,
    from_mapped=lambda stored, values, new: values,
    convert=_convert,
    output_product=_output_product,
    kind_of=lambda name, stored: "BF16",
    make_output=_make_output,
    file_dtype=torch.bfloat16,
)
