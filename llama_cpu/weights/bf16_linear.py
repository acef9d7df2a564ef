"""Products with bfloat16 weights.

Activations are rounded to bfloat16 for the product unless the weight is widened, and so is the
result.
"""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.system import torch_private
from llama_cpu.weights.float32_linear import stacked
from llama_cpu.weights.linear import SCRATCH, take_rows
from llama_cpu.weights.operations import (
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)


class Bfloat16Linear:
    """The product with a bfloat16 weight as it lies in memory or in a file.

    One row: ``torch.mv`` reads the weight near the memory's speed, twice as fast as float32, where
    ``F.linear`` in bfloat16 does not on any processor measured.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> bfloat16 [rows, out]."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0].bfloat16()).unsqueeze(0)
        return F.linear(x.bfloat16(), self.weight)


class WidenedBfloat16Linear:
    """The same, with the weight widened to float32 before a product of several rows.

    Without instructions for bfloat16, its product of many rows is several times slower than the
    copy and float32's product together.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> [rows, out], bfloat16 for one row, else float32."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0].bfloat16()).unsqueeze(0)
        return F.linear(x.float(), SCRATCH.widened(self.weight))


class PackedBfloat16Linear:
    """The product with a copy of the weight in oneDNN's layout.

    With instructions for bfloat16, one row takes a tenth less time than with ``torch.mv``, whose
    arithmetic is hardly faster than the memory. Eight rows take little more, two thirds of the time
    of ``F.linear``, which rearranges the weight for each product; 512 rows take a tenth more time
    than ``F.linear`` at the width of 7B.
    """

    def __init__(self, weight: Tensor) -> None:
        # Arranged for one row. What suits 512 takes 3% off these and adds a tenth to one.
        self._packed = torch_private.pack_linear(weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> bfloat16 [rows, out]."""
        return torch_private.packed_linear(x.bfloat16(), self._packed)


class Bfloat16Output:
    """The last product, whose results are compared with each other.

    bfloat16 has 8 bits of precision, so that the best tokens would often tie. The fast product
    finds the candidates, and their logits are computed again in float32.
    """

    CANDIDATES = 64

    def __init__(self, weight: Tensor, product: Product[Tensor]) -> None:
        self._weight = weight
        self._product = product.make(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, dim] -> float32 logits [rows, vocab]."""
        logits = self._product(x).float()
        best = logits.topk(min(self.CANDIDATES, logits.shape[1])).indices
        for row, ids in enumerate(best):
            logits[row, ids] = torch.mv(take_rows(self._weight, ids), x[row])
        return logits


@cache
def packing_works() -> bool:
    """Try oneDNN's packed product, which needs instructions of AVX-512 or newer."""
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
    """In place in any case: single rows are taken of the output's weight."""
    return choice.in_place


OPERATIONS = Operations(
    products=(
        Product(
            "packed", PackedBfloat16Linear, in_place=False, rows_at_once=8, works=packing_works
        ),
        Product("plain", Bfloat16Linear, in_place=True, rows_at_once=8),
        Product("widened", WidenedBfloat16Linear, in_place=True, widens=True),
    ),
    mappable=_mappable,
    from_mapped=lambda stored, values, new: values,
    convert=_convert,
    output_product=_output_product,
    make_output=Bfloat16Output,
    file_dtype=torch.bfloat16,
)
