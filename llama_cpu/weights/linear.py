"""Matrix products, one class per precision. Every choice of operator is made in this file.

The figures behind the choices are in docs/performance.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.weights.packing import pack_int8
from llama_cpu.weights.precision import Precision
from llama_cpu.weights.quantization import Int8Weight


def bf16_in_hardware() -> bool:
    """Whether this processor multiplies bfloat16 itself (AMX or AVX512-BF16) and oneDNN is there.

    Without that, torch's bfloat16 product of many rows is several times slower than float32's.
    """
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool((amx() or avx512()) and torch.backends.mkldnn.is_available())


def int8_in_hardware() -> bool:
    """Whether this processor adds up products of int8 exactly (VNNI or AMX) and oneDNN is there.

    Without that, oneDNN's sums of two products are cut off at 16 bits, which is wrong here.
    """
    vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return bool(vnni() and torch.backends.mkldnn.is_available())


# Tokens of a prompt that are read at once. As few as bring the products near their peak, since
# working memory grows with them: the products rearrange a weight before they use it, which takes as
# long as some 60 rows do.
PREFILL_CHUNK = 512

_BF16_IN_HARDWARE = bf16_in_hardware()
_INT8_IN_HARDWARE = int8_in_hardware()


def packs(precision: Precision) -> bool:
    """Whether this processor multiplies fastest what oneDNN has arranged for it ("packed"); else
    weights are multiplied as they lie in files, so that these can be mapped."""
    if precision is Precision.BF16:
        return _BF16_IN_HARDWARE
    return precision is Precision.INT8 and _INT8_IN_HARDWARE


def widens(precision: Precision) -> bool:
    """Whether weights become float32 just before the product with many rows."""
    if precision is Precision.BF16:
        return not _BF16_IN_HARDWARE
    return precision is Precision.INT8 and not _INT8_IN_HARDWARE


def rows_at_once(precision: Precision, packed: bool) -> int:
    """Rows that take hardly longer than one: so many tokens are worth checking in one pass.

    In float32 a third row costs as much as the first two, and for int8 weights that are not packed
    the fifth as much as the first four. Widened weights cost the same for any number, but several
    times one row's time.
    """
    if precision is Precision.FLOAT32:
        return 2
    if widens(precision):
        return 1
    return 4 if precision is Precision.INT8 and not packed else 8


class _Scratch:
    """A float32 matrix that all layers share, for weights widened just before their product."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def widened(self, weight: Tensor) -> Tensor:
        """The weight [out, in] as float32, valid until the next call."""
        if self._values.numel() < weight.numel():
            self._values = torch.empty(weight.numel())
        return self._values[: weight.numel()].view_as(weight).copy_(weight)


_SCRATCH = _Scratch()


class Float32Linear:
    """``x @ weight.T`` in float32. One row: ``torch.mv``, which costs less to begin with and reads
    as fast; a tenth less time for the demo model's small weights, the same for 7B's.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, in] -> float32 [rows, out]."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0]).unsqueeze(0)
        return F.linear(x, self.weight)


class Bfloat16Linear:
    """The same with a bfloat16 weight; unless it is widened, all else is bfloat16, too.

    One row: ``torch.mv`` reads the weight near the memory limit, twice as fast as float32, where
    ``F.linear`` in bfloat16 does not on any processor measured. More rows: the bfloat16 product
    where the processor has one, else the weight is widened into the scratch.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> bfloat16 [rows, out]; float32 where widened."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0].bfloat16()).unsqueeze(0)
        if _BF16_IN_HARDWARE:
            return F.linear(x.bfloat16(), self.weight)
        return F.linear(x.float(), _SCRATCH.widened(self.weight))


class PackedBfloat16Linear:
    """The same for a processor that multiplies bfloat16, with the weight as oneDNN wants it.

    One row takes a tenth less time than with ``torch.mv``, whose arithmetic is hardly faster than
    the memory. Eight take little more, two thirds of the time of ``F.linear``, which arranges the
    weight anew for each product; 512 take a tenth more than that at the width of 7B.
    """

    def __init__(self, weight: Tensor) -> None:
        # Arranged for one row. What suits 512 takes 3% off these and adds a tenth to one.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> bfloat16 [rows, out]."""
        packed = torch.ops.mkldnn._linear_pointwise
        return packed(x.bfloat16(), self._packed, None, "none", [], "")


class Int8Linear:
    """The same with int8 weights; activations are rounded to 16 bits, or to 8.

    The product is oneDNN's of unsigned and signed bytes. A row of 16-bit activations is two rows of
    bytes, the high and the low ones: as long as reading the weight takes the time, the second is
    free. A long prompt's rows get a second one only where a few great values among small ones
    would leave these with too few steps.

    oneDNN adds integers up exactly, so that the result of one of a few rows does not depend on the
    rows beside it.
    """

    FEW_ROWS = 16
    # Greatest magnitude / root mean square of a row. Above it, rounding to 127 steps either way
    # adds noise of more than 2.3% (10 / 127 / sqrt(12)) of the row's own size.
    COARSE = 10.0

    def __init__(self, weight: Int8Weight) -> None:
        self._scale = weight.scale / 127
        self._zero_points = torch.zeros(len(weight.scale), dtype=torch.int64)
        self._packed = pack_int8(weight.values)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        x = x.float()
        greatest = x.abs().amax(1, keepdim=True)  # [rows, 1]
        few = x.shape[0] <= self.FEW_ROWS
        product = self._in_16_bits(x, greatest) if few else self._in_8_bits(x, greatest)
        # A row of zeros was divided by zero; whatever came out is multiplied by zero.
        return product.mul_(greatest)

    def _in_16_bits(self, x: Tensor, greatest: Tensor) -> Tensor:
        """Product of x / greatest."""
        # Numbers of 16 bits are the lowest ones of these floats. With 128 as both bytes' zero, a
        # number n is the bytes of n + 128 * 256 + 128.
        shifted = torch.addcdiv(_MIDDLE_OF_16_BITS, x, greatest, value=256 * _STEPS).view(
            torch.int32
        )
        low_high = (shifted.unsqueeze(1) >> _LOW_HIGH).to(torch.uint8)  # [rows, 2, in]
        low, high = self._of_bytes(low_high.view(-1, x.shape[1])).view(len(x), 2, -1).unbind(1)
        return torch.add(high, low, alpha=1 / 256)

    def _in_8_bits(self, x: Tensor, greatest: Tensor) -> Tensor:
        """Product of x / greatest, with a second row of bytes for some rows."""
        steps = _STEPS / greatest
        rounded = torch.addcmul(_MIDDLE, x, steps).to(torch.uint8)
        size = torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5
        coarse = (greatest > self.COARSE * size).squeeze(1).nonzero().squeeze(1)
        if not len(coarse):
            return self._of_bytes(rounded)
        rest = (x[coarse] * steps[coarse]).sub_(rounded[coarse].float().sub_(128))
        rest = rest.mul_(2 * _STEPS).add_(_MIDDLE).to(torch.uint8)  # -0.5 to 0.5 as 1 to 255
        whole, rest = self._of_bytes(torch.cat([rounded, rest])).split([len(x), len(coarse)])
        return whole.index_add_(0, coarse, rest, alpha=1 / (2 * _STEPS))

    def _of_bytes(self, x: Tensor) -> Tensor:
        """Product of uint8 x - 128, [rows, in], and the weight / 127: float32 [rows, out]."""
        return torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 128, self._packed, self._scale, self._zero_points, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip


_STEPS = 127.0
_MIDDLE = torch.tensor(128.5)  # a half is added, as the rest is cut off
# From 2 ** 23 on, float32 has no fractions: what is added to it is rounded.
_MIDDLE_OF_16_BITS = torch.tensor(2.0**23 + 128 * 256 + 128)
_LOW_HIGH = torch.tensor([[0], [8]], dtype=torch.int32)  # bits to shift by


class PlainInt8Linear(Int8Linear):
    """The same with weights as they lie in a file, or for a processor without exact int8 products
    (before VNNI, Arm).

    Up to 4 rows: torch's product of bfloat16 and int8, which reads the weight once. It works on
    whole blocks and crashes beside them. More rows: bytes, as above but with ``torch._int_mm``, or
    without such products the weight widened, activations as they are.
    """

    def __init__(self, weight: Int8Weight) -> None:
        self._values = weight.values
        self._step = weight.scale
        self._scale = weight.scale / 127  # as above
        self._ones = torch.ones_like(weight.scale, dtype=torch.bfloat16)
        self._in_blocks = all(size % 64 == 0 for size in weight.values.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 [rows, out]."""
        if x.shape[0] <= 4 and self._in_blocks:
            product = torch._weight_int8pack_mm(x.bfloat16(), self._values, self._ones)
            return product * self._step
        if _INT8_IN_HARDWARE:
            return super().__call__(x)
        return F.linear(x.float(), _SCRATCH.widened(self._values)).mul_(self._step)

    def _of_bytes(self, x: Tensor) -> Tensor:
        signed = (x ^ 128).view(torch.int8)  # x - 128
        return torch._int_mm(signed, self._values.T).float().mul_(self._scale)


class SeparateLinears:
    """Several products of one input, where the weights do not lie side by side."""

    def __init__(self, linears: list["Linear"]) -> None:
        self.linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, sum of outs], as each product takes and gives it."""
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


class BiasedLinear:
    """A product with a bias that is added to it."""

    def __init__(self, linear: "Linear", bias: Tensor) -> None:
        self.linear = linear
        self.bias = bias  # float32 [out]

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> float32 [rows, out]."""
        return self.linear(x).float().add_(self.bias)


class Bfloat16Output:
    """The last product, whose results are compared with each other.

    bfloat16 has 8 bits of precision, so that the best tokens would often tie. The candidates are
    found with the fast product and their logits computed again in float32.
    """

    CANDIDATES = 64

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._product = Bfloat16Linear(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, dim] -> float32 logits [rows, vocab]."""
        logits = self._product(x).float()
        best = logits.topk(min(self.CANDIDATES, logits.shape[1])).indices
        for row, ids in enumerate(best):
            logits[row, ids] = torch.mv(take_rows(self._weight, ids), x[row])
        return logits


Weight = Tensor | Int8Weight  # [out, in]
Linear = (
    Float32Linear
    | Bfloat16Linear
    | PackedBfloat16Linear
    | Int8Linear
    | PlainInt8Linear
    | SeparateLinears
    | BiasedLinear
)
Output = Linear | Bfloat16Output


def make_linear(weight: Weight, packed: bool) -> Linear:
    """The product with a weight, by its type; ``packed`` where ``packs`` says so, and the weight is
    not needed after this. The layout differs between processors, hence is never on disk."""
    if isinstance(weight, Int8Weight):
        return Int8Linear(weight) if packed else PlainInt8Linear(weight)
    if weight.dtype == torch.float32:
        return Float32Linear(weight)
    return PackedBfloat16Linear(weight) if packed else Bfloat16Linear(weight)


def make_output(weight: Weight, packed: bool) -> Output:
    """The product for the output matrix [vocab, dim]."""
    if isinstance(weight, Tensor) and weight.dtype == torch.bfloat16:
        return Bfloat16Output(weight)
    return make_linear(weight, packed)


def take_rows(weight: Weight, ids: Tensor) -> Tensor:
    """Rows of a weight as float32 [len(ids), in]: the embedding of tokens, for one."""
    if isinstance(weight, Int8Weight):
        return weight.values[ids].float().mul_(weight.scale[ids].unsqueeze(1))
    return F.embedding(ids, weight).float()
