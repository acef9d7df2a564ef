"""Types and helpers that the products of all weight formats share.

The measurements behind the choices in this package are in docs/performance.md.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

# Number of prompt tokens per prefill pass. Working memory grows with it, so it is just large enough
# for nearly peak speed: products rearrange the weight first, which takes as long as about 60 rows.
PREFILL_CHUNK = 512


@runtime_checkable
class QuantizedWeight(Protocol):
    """A quantised matrix [out, in] that can return some of its rows in float32."""

    @property
    def nbytes(self) -> int: ...

    def take_rows(self, ids: Tensor) -> Tensor:
        """Return the rows ``ids`` as float32 [len(ids), in]."""


Weight = Tensor | QuantizedWeight  # [out, in]; a Tensor is float32 or bfloat16


class Linear(Protocol):
    """The product ``x @ weight.T`` with one weight."""

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 or bfloat16 [rows, out]."""


Output = Linear  # the output product: float32 [rows, dim] -> float32 logits [rows, vocab]


def take_rows(weight: Weight, ids: Tensor) -> Tensor:
    """Return the rows ``ids`` of a weight as float32 [len(ids), in], such as token embeddings."""
    if isinstance(weight, Tensor):
        return F.embedding(ids, weight).float()
    return weight.take_rows(ids)


class SeparateLinears:
    """Concatenated products of one input with several weights that are separate in memory."""

    def __init__(self, linears: list[Linear]) -> None:
        self.linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, sum of outs], in the dtypes of the products."""
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


class BiasedLinear:
    """A product with a bias."""

    def __init__(self, linear: Linear, bias: Tensor) -> None:
        self.linear = linear
        self.bias = bias  # float32 [out]

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> float32 [rows, out]."""
        return self.linear(x).float().add_(self.bias)


class _Scratch:
    """A float32 buffer, shared by all layers, for weights that are widened for a product."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def widened(self, weight: Tensor) -> Tensor:
        """Return the weight [out, in] as float32, valid until the next call."""
        if self._values.numel() < weight.numel():
            # A tensor that was made in inference mode could not be written outside it.
            with torch.inference_mode(False):
                self._values = torch.empty(weight.numel())
        return self._values[: weight.numel()].view_as(weight).copy_(weight)


SCRATCH = _Scratch()
