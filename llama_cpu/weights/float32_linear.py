"""Products with float32 weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llama_cpu.system import torch_private
from llama_cpu.weights.kernel_linear import float_matrix, kernel_products
from llama_cpu.weights.many_rows import (
    MultiplyWidened,
    multiply_plain,
    packing_variant,
    packing_works,
)
from llama_cpu.weights.operations import (
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)


class Float32Linear:
    """The product with an unpacked float32 weight, in memory or mapped from a file.

    For one row, ``torch.mv`` has less overhead than ``F.linear`` and reads as fast: it takes 10%
    less time for the demo model's small weights, and the same time for those of a 7B model.
    """

    def __init__(self, weight: Tensor, multiply: MultiplyWidened = multiply_plain) -> None:
        self.weight = weight  # [out, in]
        self._multiply = multiply  # for several rows

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, in] -> float32 [rows, out]."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0]).unsqueeze(0)
        return self._multiply(x, self.weight)


class PackedFloat32Linear:
    """The product with a packed copy of the weight in oneDNN's layout.

    On AMD Zen 4 and 5 it is 1.5 times as fast as MKL for one row and twice as fast for many. On
    Intel processors it is hardly faster, so mapping the weight from its file is the better choice.
    """

    def __init__(self, weight: Tensor) -> None:
        # Packed for one row, which is within a few percent of the best layout for 512.
        self._packed = torch_private.pack_linear(weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        return torch_private.packed_linear(x.float(), self._packed)


def _mappable(stored: StoredMatrix) -> StoredMatrix | None:
    is_float32 = stored.dtype == torch.float32
    return stored if is_float32 and stored.mapped() is not None else None


def _convert(stored: Sequence[StoredMatrix], new: NewTensor) -> Tensor:
    return stacked(stored, new, torch.float32)


def stacked(stored: Sequence[StoredMatrix], new: NewTensor, dtype: torch.dtype) -> Tensor:
    """Read matrices into one weight [sum of outs, in] of a float dtype, one below the other."""
    heights = [matrix.shape[0] for matrix in stored]
    values = new((sum(heights), stored[0].shape[1]), dtype)
    for matrix, piece in zip(stored, torch.split(values, heights), strict=True):
        matrix.fill(piece)
    return values


def _output_product(choice: ProductChoice[Tensor], tied: bool) -> Product[Tensor]:
    """Return the in-place product if the output is tied to the embeddings.

    A packed copy beside the embedding table would cost more memory than it is worth.
    """
    return choice.in_place if tied else choice.product


_PLAIN = Product("plain", Float32Linear, in_place=True, rows_at_once=2)
_PACKING = packing_variant(_PLAIN, Float32Linear)

OPERATIONS = Operations(
    products=(
        *kernel_products(float_matrix, (_PLAIN, _PACKING)),
        _PLAIN,
        _PACKING,
        Product("packed", PackedFloat32Linear, in_place=False, rows_at_once=4, works=packing_works),
    ),
    mappable=_mappable,
    from_mapped=lambda stored, values, new: values,
    convert=_convert,
    output_product=_output_product,
    kind_of=lambda name, stored: "F32",
    make_output=lambda weight, product: product.make(weight),
    file_dtype=torch.float32,
)
