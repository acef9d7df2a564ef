"""The feed-forward layer."""

import torch.nn.functional as F
from torch import Tensor

from llama_cpu.weights.linear import Linear


class FeedForward:
    """SwiGLU (Shazeer, arXiv:2002.05202): w2(silu(w1 x) * w3 x)."""

    def __init__(self, w13: Linear, w2: Linear) -> None:
        """``w13``: w1 and w3 stacked into one product, dim -> 2 * hidden_dim."""
        self.w13, self.w2 = w13, w2

    def __call__(self, x: Tensor) -> Tensor:
        """x: [seq, dim] -> [seq, dim]."""
        gate, up = self.w13(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate, inplace=True).mul_(up))
