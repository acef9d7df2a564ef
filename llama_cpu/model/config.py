"""The configuration of a model: one frozen dataclass for all architectures."""

from dataclasses import dataclass
from pathlib import Path

import torch

from llama_cpu.errors import UserError


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's scaling of slow rotary frequencies (Meta, llama_models ``apply_scaling``)."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class YarnScaling:
    """YaRN's scaling of rotary frequencies (Peng et al., arXiv:2309.00071, section 3)."""

    factor: float
    original_context: int
    beta_fast: float = 32.0  # pairs that turn more often than this keep their frequency
    beta_slow: float = 1.0  # pairs that turn less often than this are divided by ``factor``
    attention_factor: float | None = None  # scale of queries and keys; None: 0.1 ln(factor) + 1


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a transformer decoder.

    Layers are numbered from 0. A layer in ``sliding_layers`` attends to the last
    ``sliding_window`` tokens only, the current one included; a layer in ``unrotated_layers`` has
    no rotary embedding.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int  # width of the feed-forward layer
    vocab_size: int  # rows of the embedding
    norm_eps: float
    rope_theta: float
    context_length: int  # number of tokens that the model was trained for
    context_is_guess: bool = False  # whether the context length is missing in the file
    rope_scaling: RopeScaling | YarnScaling | None = None
    rope_factors: tuple[float, ...] | None = None  # GGUF: a divisor for each rotary frequency
    rope_linear_factor: float = 1.0  # "linear" scaling: positions are divided by it
    rope_interleaved: bool = True  # whether rotary pairs are adjacent (Meta's order), not halves
    tied_output: bool = False  # whether the output matrix is the embedding
    architecture: str = "llama"  # key of its entry in model/architectures.py
    sliding_window: int | None = None  # tokens
    sliding_layers: tuple[int, ...] = ()
    unrotated_layers: tuple[int, ...] = ()

    @property
    def q_dim(self) -> int:
        """Width of the queries of all heads."""
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of the keys, and of the values, of all key-value heads."""
        return self.n_kv_heads * self.head_dim

    def kv_cache_bytes(self, context: int, dtype: torch.dtype) -> int:
        """Size of a KV cache of this type for ``context`` tokens.

        An int8 cache has a float32 scale for each head of each key and value.
        """
        head = self.head_dim * dtype.itemsize + (4 if dtype is torch.int8 else 0)
        return 2 * self.n_layers * self.n_kv_heads * context * head


def check_config(config: ModelConfig, file: Path) -> ModelConfig:
    """Return the configuration. Raises UserError if its numbers contradict each other."""
    if config.n_heads % config.n_kv_heads:
        raise UserError(
            f"{file}: {config.n_heads} heads cannot share {config.n_kv_heads} key-value heads "
            "evenly; get a good copy of this file."
        )
    if config.hidden_dim < 1 or config.vocab_size < 1:
        raise UserError(f"{file}: there are weights without rows; get a good copy of the model.")
    if config.head_dim % 2:
        raise UserError(f"{file}: the head size {config.head_dim} is odd and cannot be rotated.")
    return config
