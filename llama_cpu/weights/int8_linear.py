"""Int8 weights: reading, quantising and multiplying them."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llama_cpu.kernels.linear import KernelMatrix
from llama_cpu.system import torch_private
from llama_cpu.weights.int8_packing import pack_int8
from llama_cpu.weights.int8_rows import Int8Weight, quantize_rows, scale_rows
from llama_cpu.weights.kernel_linear import kernel_products
from llama_cpu.weights.linear import SCRATCH
from llama_cpu.weights.many_rows import MultiplyWidened, multiply_plain, packing_variant
from llama_cpu.weights.operations import (
    FilePart,
    NewTensor,
    Operations,
    Product,
    ProductChoice,
    StoredMatrix,
)

# Size of the float32 rows that are quantised at a time; they fit the processor's cache.
_CHUNK_BYTES = 4 << 20


class Int8Linear:
    """The product with packed int8 weights; activations are rounded to 16 or 8 bits.

    oneDNN multiplies unsigned by signed bytes. For few rows, activations are rounded to 16 bits and
    each row becomes two rows of bytes, the high and the low ones. As reading the weight takes most
    of the time, the second row costs almost nothing. For many rows (prefill), activations are
    rounded to 8 bits. Only rows with outliers, whose other values would be rounded too coarsely,
    get a second row of bytes.

    oneDNN accumulates integers exactly. With few rows, the result for a row therefore does not
    depend on the other rows.
    """

    FEW_ROWS = 16
    # Threshold for the largest magnitude / root mean square of a row. Above it, rounding to 127
    # steps of each sign adds noise of more than 2.3% (10 / 127 / sqrt(12)) of the row's RMS.
    COARSE = 10.0

    def __init__(self, weight: Int8Weight) -> None:
        self._scale = weight.scale / 127
        self._zero_points = torch.zeros(len(weight.scale), dtype=torch.int64)
        self._packed = pack_int8(weight.values)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        return in_bytes(x.float(), self._of_bytes)

    def _of_bytes(self, x: Tensor) -> Tensor:
        """Multiply (x - 128), uint8 x [rows, in], by the weight / 127: float32 [rows, out]."""
        return torch_private.packed_int8_linear(x, self._packed, self._scale, self._zero_points)


class ByteProduct(Protocol):
    """The product of (x - 128), uint8 x [rows, in], and a weight / 127: float32 [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor: ...


def in_bytes(x: Tensor, product: ByteProduct) -> Tensor:
    """Multiply float32 x [rows, in] by a weight, given its byte product: float32 [rows, out]."""
    greatest = x.abs().amax(1, keepdim=True)  # [rows, 1]
    in_steps = _in_16_bits if x.shape[0] <= Int8Linear.FEW_ROWS else _in_8_bits
    # A row of zeros was divided by zero, but its result is multiplied by zero.
    return in_steps(x, greatest, product).mul_(greatest)


def _in_16_bits(x: Tensor, greatest: Tensor, product: ByteProduct) -> Tensor:
    """Return the product with x / greatest, rounded to 16 bits."""
    # The lowest 16 bits of these floats are the rounded values. As both bytes have 128 as their
    # zero point, a value n is stored as the two bytes of n + 128 * 256 + 128.
    shifted = torch.addcdiv(_MIDDLE_OF_16_BITS, x, greatest, value=256 * _STEPS).view(torch.int32)
    low_high = (shifted.unsqueeze(1) >> _LOW_HIGH).to(torch.uint8)  # [rows, 2, in]
    low, high = product(low_high.view(-1, x.shape[1])).view(len(x), 2, -1).unbind(1)
    return torch.add(high, low, alpha=1 / 256)


def _in_8_bits(x: Tensor, greatest: Tensor, product: ByteProduct) -> Tensor:
    """Return the product with x / greatest, rounded to 8 bits; 16 bits for rows with outliers."""
    steps = _STEPS / greatest
    rounded = torch.addcmul(_MIDDLE, x, steps).to(torch.uint8)
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5
    coarse = (greatest > Int8Linear.COARSE * size).squeeze(1).nonzero().squeeze(1)
    if not len(coarse):
        return product(_in_blocks([rounded]))[: len(x)]
    rest = (x[coarse] * steps[coarse]).sub_(rounded[coarse].float().sub_(128))
    rest = rest.mul_(2 * _STEPS).add_(_MIDDLE).to(torch.uint8)  # -0.5 to 0.5 as 1 to 255
    both = product(_in_blocks([rounded, rest]))
    whole, rest = both[: len(x)], both[len(x) : len(x) + len(coarse)]
    return whole.index_add_(0, coarse, rest, alpha=1 / (2 * _STEPS))


def _in_blocks(pieces: list[Tensor]) -> Tensor:
    """Put uint8 pieces [rows, in] below each other, with rows of zeros up to a whole block.

    Each layer of a model finds another number of rows with outliers. oneDNN would compile a product
    for each of them, 60 to 80 in one prompt of the demo model, which takes milliseconds and a
    megabyte each time. Its products work on blocks of rows anyway.
    """
    missing = -sum(map(len, pieces)) % _BLOCK_ROWS
    if missing:
        pieces = [*pieces, pieces[0].new_zeros(missing, pieces[0].shape[1])]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


_STEPS = 127.0
_BLOCK_ROWS = 16  # rows of a tile of AMX
_MIDDLE = torch.tensor(128.5)  # with 0.5, because the conversion to integers truncates
# From 2 ** 23 on, float32 has no fraction bits, so adding a number to it rounds the number.
_MIDDLE_OF_16_BITS = torch.tensor(2.0**23 + 128 * 256 + 128)
_LOW_HIGH = torch.tensor([[0], [8]], dtype=torch.int32)  # bits to shift by


class _InBlocks:
    """The product of up to 4 bfloat16 rows with unpacked int8 weights, which are read once.

    The operator works on whole blocks of 64 and crashes the process for other shapes.
    """

    ROWS = 4

    def __init__(self, weight: Int8Weight) -> None:
        self._values, self._scale = weight.values, weight.scale
        self._ones = torch.ones_like(weight.scale, dtype=torch.bfloat16)
        self._is_possible = all(size % 64 == 0 for size in weight.values.shape)

    def takes(self, x: Tensor) -> bool:
        return self._is_possible and x.shape[0] <= self.ROWS

    def __call__(self, x: Tensor) -> Tensor:
        product = torch_private.bf16_int8_matmul(x.bfloat16(), self._values, self._ones)
        return product * self._scale


class PlainInt8Linear:
    """The product with unpacked int8 weights; activations are rounded as in ``Int8Linear``."""

    def __init__(self, weight: Int8Weight) -> None:
        self._few = _InBlocks(weight)
        self._values = weight.values
        self._scale = weight.scale / 127

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        return self._few(x) if self._few.takes(x) else in_bytes(x.float(), self._of_bytes)

    def _of_bytes(self, x: Tensor) -> Tensor:
        signed = (x ^ 128).view(torch.int8)  # x - 128
        return torch_private.int8_matmul(signed, self._values.T).float().mul_(self._scale)


class WidenedInt8Linear:
    """The product with unpacked int8 weights, widened to float32 for more than 4 rows.

    For processors without exact int8 products (x86 without VNNI, Arm). Activations of more than 4
    rows are not rounded.
    """

    def __init__(self, weight: Int8Weight, multiply: MultiplyWidened = multiply_plain) -> None:
        self._few = _InBlocks(weight)
        self._values, self._scale = weight.values, weight.scale
        self._multiply = multiply

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        if self._few.takes(x):
            return self._few(x)
        return self._multiply(x.float(), SCRATCH.widened(self._values)).mul_(self._scale)


@cache
def packing_works() -> bool:
    """Return whether oneDNN's packed product of bytes is exact on this processor."""
    return torch_private.has_onednn() and _is_exact(
        lambda weight: Int8Linear(weight)._of_bytes, weights=(127, -127)
    )


@cache
def int8_matmul_works() -> bool:
    """Return whether PyTorch's product of int8 matrices is exact on this processor."""
    return torch_private.has_onednn() and _is_exact(
        lambda weight: PlainInt8Linear(weight)._of_bytes, weights=(127, -127)
    )


class _MakeByteProduct(Protocol):
    def __call__(self, weight: Int8Weight) -> ByteProduct: ...


def _is_exact(make: _MakeByteProduct, weights: tuple[int, ...]) -> bool:
    """Multiply the largest possible numbers and compare the results with the exact sums.

    A processor without VNNI adds two products in 16 bits (instruction vpmaddubsw), which
    255 * 127 + 255 * 127 overflows (oneDNN developer guide, "Nuances of int8 Computations").
    Whether this happens depends on the instructions that oneDNN uses, not on the shape of the
    matrix.
    """
    try:
        return all(
            _product_is_exact(make, shape, rows, value)
            for shape in ((64, 64), (33, 130))  # whole blocks, and a shape that is not
            for rows in (1, 2, 40)
            for value in weights
        )
    except (RuntimeError, AttributeError):  # no such instructions, no such operator
        return False


def _product_is_exact(
    make: _MakeByteProduct, shape: tuple[int, int], rows: int, value: int
) -> bool:
    values = torch.full(shape, value, dtype=torch.int8)
    product = make(Int8Weight(values, torch.full(shape[:1], 127.0)))
    return all(
        bool((product(x) == float((byte - 128) * value * shape[1])).all())
        for byte in (0, 255)
        for x in (torch.full((rows, shape[1]), byte, dtype=torch.uint8),)
    )


@runtime_checkable
class StoredInt8(Protocol):
    """A matrix stored as int8 with scales, such as ``checkpoint.int8.Int8Tensor``."""

    @property
    def values(self) -> StoredMatrix: ...

    @property
    def scale(self) -> object: ...

    def read(self, values: Tensor, scale: Tensor) -> None:
        """Fill int8 ``values`` [out, in] and float32 ``scale`` [out]."""

    def read_scale(self, scale: Tensor) -> None:
        """Fill float32 ``scale`` [out]."""


def _mappable(stored: StoredMatrix) -> StoredMatrix | None:
    if isinstance(stored, StoredInt8) and stored.values.mapped() is not None:
        return stored.values
    return None


def _from_mapped(stored: StoredMatrix, values: Tensor, new: NewTensor) -> Int8Weight:
    assert isinstance(stored, StoredInt8)
    scale = new(stored.shape[:1], torch.float32)
    stored.read_scale(scale)
    return Int8Weight(values, scale)


def _convert(stored: Sequence[StoredMatrix], new: NewTensor) -> Int8Weight:
    heights = [matrix.shape[0] for matrix in stored]
    values = new((sum(heights), stored[0].shape[1]), torch.int8)
    scale = new((sum(heights),), torch.float32)
    pieces = zip(stored, torch.split(values, heights), torch.split(scale, heights), strict=True)
    for matrix, piece, piece_scale in pieces:
        if isinstance(matrix, StoredInt8):  # quantised when the file was written
            matrix.read(piece, piece_scale)
        else:
            _quantize(matrix, piece, piece_scale)
    return Int8Weight(values, scale)


def _quantize(matrix: StoredMatrix, values: Tensor, scale: Tensor) -> None:
    """Read and quantise a matrix in chunks, so that it is never completely in float32."""
    for first, last in _chunks(*matrix.shape):
        rows = torch.empty(last - first, matrix.shape[1])
        matrix.rows(first, last).fill(rows)
        quantize_rows(rows, values[first:last], scale[first:last])


def _chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK_BYTES // (4 * columns))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _output_product(choice: ProductChoice[Int8Weight], tied: bool) -> Product[Int8Weight]:
    """Return the layers' product: even if tied, a copy of one byte per weight is affordable."""
    return choice.product


def _fill_values(rows: Tensor, values: Tensor) -> None:
    quantize_rows(rows, values, torch.empty(len(rows)))


def _fill_scale(rows: Tensor, scale: Tensor) -> None:
    scale_rows(rows, scale)
    if not bool(scale.isfinite().all()):
        raise OverflowError


_FILE_PARTS = (
    FilePart(
        suffix="",
        dtype=torch.int8,
        shape=lambda matrix: matrix,
        fill=_fill_values,
        stored=lambda matrix: matrix.values if isinstance(matrix, StoredInt8) else None,
    ),
    FilePart(
        suffix="_scale",
        dtype=torch.float32,
        shape=lambda matrix: matrix[:1],
        fill=_fill_scale,
        stored=lambda matrix: matrix.scale if isinstance(matrix, StoredInt8) else None,
    ),
)


def _matrix(weight: Int8Weight) -> KernelMatrix:
    """Return the weight as kernels read it."""
    out, columns = weight.values.shape
    return KernelMatrix("INT8", weight.values, out, columns, weight.scale)


_PLAIN = Product("plain", PlainInt8Linear, in_place=True, rows_at_once=4, works=int8_matmul_works)
_WIDENED = Product("widened", WidenedInt8Linear, in_place=True, widens=True)
_PACKING = packing_variant(_WIDENED, WidenedInt8Linear)

OPERATIONS = Operations(
    products=(
        *kernel_products(_matrix, (_WIDENED, _PACKING, _PLAIN)),
        Product("packed", Int8Linear, in_place=False, rows_at_once=8, works=packing_works),
        _PLAIN,
        _WIDENED,
        _PACKING,
    ),
    mappable=_mappable,
    from_mapped=_from_mapped,
    convert=_convert,
    output_product=_output_product,
    kind_of=lambda name, stored: "INT8",
    make_output=lambda weight, product: product.make(weight),
    file_dtype=torch.float32,
    parts_of=lambda name, shape: _FILE_PARTS,
)
