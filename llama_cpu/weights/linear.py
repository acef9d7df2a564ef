"""What the products of all formats have in common: their types, stacked products, rows of tables.

The figures behind the choices in this package are in docs/performance.md.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

# Tokens of a prompt that are read at once. As few as bring the products near their peak, since
# working memory grows with them: the products rearrange a weight before they use it, which takes as
# long as some 60 rows do.
PREFILL_CHUNK = 512


@runtime_checkable
class QuantizedWeight(Protocol):
    """A matrix [out, in] of which rows can be taken."""

    @property
    def nbytes(self) -> int: ...

    def take_rows(self, ids: Tensor) -> Tensor:
        """Return rows as float32 [len(ids), in]."""


Weight = Tensor | QuantizedWeight  # [out, in]; a Tensor is float32 or bfloat16


class Linear(Protocol):
    """``x @ weight.T``."""

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 or bfloat16 [rows, in] -> float32 or bfloat16 [rows, out]."""


Output = Linear  # the last product: float32 [rows, dim] -> float32 logits [rows, vocab]


def take_rows(weight: Weight, ids: Tensor) -> Tensor:
    """Return rows of a weight as float32 [len(ids), in], for example the embeddings of tokens."""
    if isinstance(weight, Tensor):
        return F.embedding(ids, weight).float()
    return weight.take_rows(ids)


class SeparateLinears:
    """Several products of one input, for weights that do not lie side by side."""

    def __init__(self, linears: list[Linear]) -> None:
        self.linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, sum of outs], in the types that each product takes and gives."""
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


class BiasedLinear:
    """A product to which a bias is added."""

    def __init__(self, linear: Linear, bias: Tensor) -> None:
        self.linear = linear
        self.bias = bias  # float32 [out]

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> float32 [rows, out]."""
        return self.linear(x).float().add_(self.bias)


class _Scratch:
    """A float32 matrix that all layers share, for weights widened just before their product."""

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
