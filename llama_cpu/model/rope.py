"""Rotary position embedding (Su et al., RoFormer, arXiv:2104.09864)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llama_cpu.model.config import ModelConfig, RopeScaling

Rotate = Callable[[Tensor], None]


class Rope:
    """The angles of every position of the context, computed once."""

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        positions = torch.arange(max_seq_len, dtype=torch.float32) / config.rope_linear_factor
        angles = torch.outer(positions, rope_frequencies(config))  # [max_seq_len, head_dim / 2]
        cos, sin = angles.cos(), angles.sin()
        self.interleaved = config.rope_interleaved
        if self.interleaved:
            self.freqs_cis = torch.complex(cos, sin)
        else:  # both halves of a head see the same angles, the first half a negative sine
            self.cos = torch.cat([cos, cos], dim=-1)
            self.sin = torch.cat([-sin, sin], dim=-1)

    def at(self, start: int, length: int) -> Rotate:
        """A function that rotates [length, heads, head_dim], in place, for positions from start."""
        end = start + length
        if self.interleaved:
            freqs_cis = self.freqs_cis[start:end].unsqueeze(1)
            return lambda x: rotate_interleaved(x, freqs_cis)
        cos = self.cos[start:end].unsqueeze(1)
        sin = self.sin[start:end].unsqueeze(1)
        return lambda x: rotate_halves(x, cos, sin)


def rotate_interleaved(x: Tensor, freqs_cis: Tensor) -> None:
    """Pairs are neighbours (0,1), (2,3), ...: the layout of Meta's and GGUF's wq and wk.

    x: [seq, heads, head_dim]; freqs_cis: complex [seq, 1, head_dim / 2].
    """
    torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(freqs_cis)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Pairs are (0, d/2), (1, d/2 + 1), ...: the layout of Hugging Face's weights.

    x: [seq, heads, head_dim]; cos, sin: [seq, 1, head_dim], sin negative in the first half.
    """
    other_half = x.roll(x.shape[-1] // 2, dims=-1)
    x.mul_(cos).addcmul_(other_half, sin)


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotated pair: float32 [head_dim / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_factors is not None:
        return frequencies / torch.tensor(config.rope_factors)
    if config.rope_scaling is not None:
        return scale_frequencies(frequencies, config.rope_scaling)
    return frequencies


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: slow frequencies are divided by ``factor``, fast ones kept, the rest blended.

    Slow and fast are measured in turns within the original context (Meta, llama_models,
    ``apply_scaling``).
    """
    turns = scaling.original_context * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor
