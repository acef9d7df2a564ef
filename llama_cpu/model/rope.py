"""Rotary position embedding (Su et al., RoFormer, arXiv:2104.09864)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llama_cpu.model.config import ModelConfig, RopeScaling, YarnScaling

Rotate = Callable[[Tensor], None]


class Rope:
    """The rotary angles of all positions of the context, computed once."""

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        positions = torch.arange(max_seq_len, dtype=torch.float32) / config.rope_linear_factor
        angles = torch.outer(positions, rope_frequencies(config))  # [max_seq_len, head_dim / 2]
        length = attention_factor(config)
        cos, sin = angles.cos() * length, angles.sin() * length
        self.interleaved = config.rope_interleaved
        if self.interleaved:
            self.freqs_cis = torch.complex(cos, sin)
        else:  # both halves of a head have the same angles, the first half with a negative sine
            self.cos = torch.cat([cos, cos], dim=-1)
            self.sin = torch.cat([-sin, sin], dim=-1)

    def pairs(self) -> Tensor:
        """Return cosine and sine of each pair: float32 [max_seq_len, head_dim / 2, 2]."""
        if self.interleaved:
            return torch.view_as_real(self.freqs_cis).contiguous()
        half = self.cos.shape[1] // 2
        return torch.stack([self.cos[:, :half], self.sin[:, half:]], dim=-1)

    def at(self, start: int, length: int) -> Rotate:
        """Return the rotation for ``length`` positions from ``start`` on.

        It rotates a tensor [length, heads, head_dim] in place.
        """
        end = start + length
        if self.interleaved:
            freqs_cis = self.freqs_cis[start:end].unsqueeze(1)
            return lambda x: rotate_interleaved(x, freqs_cis)
        cos = self.cos[start:end].unsqueeze(1)
        sin = self.sin[start:end].unsqueeze(1)
        return lambda x: rotate_halves(x, cos, sin)


def rotate_interleaved(x: Tensor, freqs_cis: Tensor) -> None:
    """Rotate adjacent pairs (0, 1), (2, 3), ... in place: the order of wq and wk in Meta's files.

    x: [seq, heads, head_dim]; freqs_cis: complex [seq, 1, head_dim / 2].
    """
    pairs = x.view(*x.shape[:-1], -1, 2)
    torch.view_as_complex(pairs).mul_(freqs_cis)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate pairs (0, d/2), (1, d/2 + 1), ... in place: the order of wq and wk in Hugging Face.

    x: [seq, heads, head_dim]; cos, sin: [seq, 1, head_dim], sin negative in the first half.
    """
    other_half = x.roll(x.shape[-1] // 2, dims=-1)
    x.mul_(cos).addcmul_(other_half, sin)


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Return the frequency of each rotary pair in radians per position: float32 [head_dim / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_factors is not None:
        return frequencies / torch.tensor(config.rope_factors)
    if isinstance(config.rope_scaling, RopeScaling):
        return scale_frequencies(frequencies, config.rope_scaling)
    if isinstance(config.rope_scaling, YarnScaling):
        return yarn_frequencies(frequencies, config.rope_scaling, config.rope_theta)
    return frequencies


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's scaling: divide low frequencies by ``factor``, keep high ones, and interpolate.

    The limits are numbers of turns within the original context (Meta, llama_models,
    ``apply_scaling``).
    """
    turns = scaling.original_context * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def yarn_frequencies(frequencies: Tensor, scaling: YarnScaling, theta: float) -> Tensor:
    """YaRN's scaling: divide low frequencies by ``factor``, keep high ones, interpolate between.

    The interpolation is linear in the index of the pair (arXiv:2309.00071, section 3.2). Its limits
    are rounded to whole indices, as in the authors' implementation.
    """
    pairs = len(frequencies)

    def pair_that_turns(turns: float) -> float:
        """Return the index of the pair that makes ``turns`` turns within the original context."""
        return pairs * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), 2 * pairs - 1)
    width = high - low if high != low else 0.001
    divided = ((torch.arange(pairs, dtype=torch.float32) - low) / width).clamp(0, 1)
    return divided * frequencies / scaling.factor + (1 - divided) * frequencies


def attention_factor(config: ModelConfig) -> float:
    """Return the scale of queries and keys: 1 except for YaRN (arXiv:2309.00071, section 3.4)."""
    scaling = config.rope_scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0
