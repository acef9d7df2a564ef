"""Matrix products, one class per precision. Every choice of operator is made in this file."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def bf16_in_hardware() -> bool:
    """Whether this processor multiplies bfloat16 itself (AMX or AVX512-BF16).

    Without that, torch's bfloat16 product of many rows is several times slower than float32's.
    """
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(amx() or avx512())


class Float32Linear:
    """``x @ weight.T`` in float32; the operator reaches the memory limit at one row."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, in] -> float32 [rows, out]."""
        return F.linear(x, self.weight)


class Bfloat16Linear:
    """The same with a bfloat16 weight; activations come and go as float32.

    One row: ``torch.mv`` reads the weight at the memory limit, twice as fast as float32, where
    ``F.linear`` in bfloat16 does not on any processor measured (11008 x 4096, 2 threads: 2.5 ms
    against 4.2 ms with AMX; docs/performance.md). More rows: the bfloat16 product where the
    processor has one, else the weight is widened into one scratch that all layers share.
    """

    _scratch = torch.empty(0)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [out, in]

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, in] -> float32 [rows, out]."""
        if x.shape[0] == 1:
            return torch.mv(self.weight, x[0].bfloat16()).float().unsqueeze(0)
        if _BF16_IN_HARDWARE:
            return F.linear(x.bfloat16(), self.weight).float()
        return F.linear(x, self._widened())

    def _widened(self) -> Tensor:
        """The weight as float32, valid until the next call on any layer."""
        if Bfloat16Linear._scratch.numel() < self.weight.numel():
            Bfloat16Linear._scratch = torch.empty(self.weight.numel())
        widened = Bfloat16Linear._scratch[: self.weight.numel()].view_as(self.weight)
        return widened.copy_(self.weight)


class Bfloat16Output(Bfloat16Linear):
    """The last product, whose results are compared with each other.

    bfloat16 has 8 bits of precision, so that the best tokens would often tie. The candidates are
    found with the fast product and their logits computed again in float32.
    """

    CANDIDATES = 256

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [1, dim] -> float32 logits [1, vocab]."""
        logits = super().__call__(x)
        best = logits[0].topk(min(self.CANDIDATES, logits.shape[1])).indices
        logits[0, best] = torch.mv(self.weight[best].float(), x[0])
        return logits


_BF16_IN_HARDWARE = bf16_in_hardware()


class SeparateLinears:
    """Several products of one input, where the weights do not lie side by side."""

    def __init__(self, linears: list["Linear"]) -> None:
        self.linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, in] -> float32 [rows, sum of outs]."""
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


Linear = Float32Linear | Bfloat16Linear | SeparateLinears


def make_linear(*weights: Tensor) -> Linear:
    """The product with one weight [out, in], or with several that read the same input.

    Of several the results are side by side. Where the loader has put the weights side by side as
    well, they are one product: at one row the time of a small product is mostly its overhead.
    """
    whole = _as_one(weights)
    if whole is None:
        return SeparateLinears([make_linear(weight) for weight in weights])
    return Bfloat16Linear(whole) if whole.dtype == torch.bfloat16 else Float32Linear(whole)


def _as_one(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights as one [sum of outs, in] without a copy; None if they do not lie so."""
    first = weights[0]
    place = first.data_ptr()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.data_ptr() != place or not weight.is_contiguous():
            return None
        place += weight.nbytes
    rows = sum(weight.shape[0] for weight in weights)
    return first.as_strided((rows, first.shape[1]), first.stride())


def make_output(weight: Tensor) -> Linear:
    """The product for the output matrix [vocab, dim], by the weight's type."""
    return Bfloat16Output(weight) if weight.dtype == torch.bfloat16 else Float32Linear(weight)
