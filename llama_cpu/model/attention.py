"""Causal grouped-query self-attention, optionally with rotary embedding and a sliding window."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.model.config import ModelConfig
from llama_cpu.model.kv_cache import LayerCache, first_in_window
from llama_cpu.model.norms import HeadNorm
from llama_cpu.model.rope import Rope, Rotate
from llama_cpu.weights.linear import Linear


@dataclass(frozen=True)
class Placement:
    """The rotation and the masks for the tokens of one forward pass.

    The masks are bool [group * seq, keys] and true if the query attends to the key. None means that
    every query attends to every key. ``window_mask`` is for layers with a sliding window and covers
    only the keys in it.
    """

    rotate: Rotate
    mask: Tensor | None
    window_mask: Tensor | None


class RotaryPositions:
    """Computes placements for a model with rotary embedding and an optional sliding window."""

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        self.rope = Rope(config, max_seq_len)
        self._group = config.n_heads // config.n_kv_heads
        self._window = config.sliding_window

    def place(self, start: int, seq: int) -> Placement:
        """Return the placement of ``seq`` tokens that follow ``start`` earlier tokens."""
        mask = window_mask = causal_mask(seq, start, self._group)
        if self._window is not None and mask is not None and start + seq > self._window:
            window_mask = causal_mask(seq, start, self._group, self._window)
        return Placement(self.rope.at(start, seq), mask, window_mask)


class Attention:
    """Causal grouped-query attention (arXiv:2305.13245): groups of heads share keys and values."""

    def __init__(
        self,
        config: ModelConfig,
        wqkv: Linear,
        wo: Linear,
        qk_norm: HeadNorm | None = None,
        rotary: bool = True,
        sliding: bool = False,
    ) -> None:
        """``wqkv``: wq, wk and wv stacked into one product, dim -> heads of q, then k, then v.

        ``sliding``: whether queries attend only to the keys in the sliding window.
        """
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        self.wqkv, self.wo = wqkv, wo
        self.qk_norm, self.rotary, self.sliding = qk_norm, rotary, sliding

    def __call__(self, x: Tensor, placement: Placement, cache: LayerCache) -> Tensor:
        """x: [seq, dim] -> [seq, dim]. Stores the tokens' keys and values in the cache."""
        seq, kv = x.shape[0], self.n_kv_heads
        heads = self.wqkv(x).float().view(seq, -1, self.head_dim)  # of q, then k, then v
        if self.qk_norm is not None:
            self.qk_norm(heads[:, :-kv])
        if self.rotary:
            placement.rotate(heads[:, :-kv])
        cache.store(heads[:, self.n_heads :])
        keys, values = cache.keys(), cache.values()  # [1, kv, seen, head_dim]
        # The heads of a group become rows of one head, so that the shared keys and values are read
        # in place and not copied for each head.
        q = heads[:, : self.n_heads].transpose(0, 1).reshape(1, kv, -1, self.head_dim)
        q = q.to(keys.dtype)  # [1, kv, group * seq, head_dim]
        mask = placement.window_mask if self.sliding else placement.mask
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.wo(out.view(self.n_heads, seq, -1).transpose(0, 1).reshape(seq, -1))


def causal_mask(seq: int, start: int, group: int, window: int | None = None) -> Tensor | None:
    """Return the attention mask, bool [group * seq, keys]; None if it would be true everywhere.

    Without ``window`` the keys are those of all start + seq tokens, and each query attends to the
    keys up to its own. With ``window`` each query attends to the last ``window`` of these only, and
    the keys begin at the first one that the first query attends to.
    """
    if seq == 1:
        return None
    first = first_in_window(start, window)
    mask = torch.ones(seq, start + seq - first, dtype=torch.bool).tril(diagonal=start - first)
    if window is not None:
        mask = mask.triu(diagonal=start - first - window + 1)
    return mask.repeat(group, 1)
