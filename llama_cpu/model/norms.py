"""Normalization of activations."""

import torch
from torch import Tensor


class RMSNorm:
    """Root mean square norm (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """``weight``: float32 [dim]."""
        # The norm is x / sqrt(mean(x ** 2) + eps); numerator and denominator are multiplied by
        # sqrt(dim).
        self.unscaled, self.eps = weight, eps
        self.weight = weight * len(weight) ** 0.5
        self.least = torch.tensor((eps * len(weight)) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [seq, dim] -> float32 [seq, dim]."""
        # vector_norm is the only reduction that is fast for one row as well as for many: F.rms_norm
        # takes three times as long for one row, and 40 times as long for 512.
        size = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # [seq, 1]
        normalized: Tensor = (x * self.weight).div_(torch.hypot(size, self.least))
        return normalized


class HeadNorm:
    """Root mean square norm of the query and key of each head, in place."""

    def __init__(
        self, q_weight: Tensor, k_weight: Tensor, n_heads: int, n_kv_heads: int, eps: float
    ) -> None:
        """``q_weight``, ``k_weight``: float32 [head_dim], shared by all query or key heads."""
        head_dim = len(q_weight)
        self.q_weight, self.k_weight, self.eps = q_weight, k_weight, eps
        weight = torch.cat([q_weight.expand(n_heads, -1), k_weight.expand(n_kv_heads, -1)])
        self.weight = weight * head_dim**0.5  # [n_heads + n_kv_heads, head_dim]
        self.least = torch.tensor((eps * head_dim) ** 0.5)

    def __call__(self, heads: Tensor) -> None:
        """heads: float32 [seq, n_heads + n_kv_heads, head_dim], queries first."""
        size = torch.linalg.vector_norm(heads, dim=2, keepdim=True)
        heads.mul_(self.weight).div_(torch.hypot(size, self.least))
