"""The LLaMA transformer (Touvron et al., arXiv:2302.13971), from token ids to logits.

Read from top to bottom: model, block, attention, feed-forward, norm. Activations are float32
throughout; only weights and the KV cache may be kept in less. Shapes: seq tokens are processed
at once; there is no batch dimension, as one person talks to one model.
"""

from collections.abc import Iterable
from threading import Event

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.config import ModelConfig
from llama_cpu.errors import Cancelled
from llama_cpu.transformer.kv_cache import KVCache
from llama_cpu.transformer.linear import make_linear, make_output
from llama_cpu.transformer.rope import Rope, Rotate

Weights = dict[str, Tensor]


class Llama:
    """The whole model. ``blocks`` are resident, or come from elsewhere as they are asked for."""

    def __init__(
        self, config: ModelConfig, weights: Weights, blocks: Iterable["Block"], max_seq_len: int
    ) -> None:
        self.config = config
        self.blocks = blocks
        self.tok_embeddings = weights["tok_embeddings.weight"]  # [vocab, dim]
        self.norm = RMSNorm(weights["norm.weight"], config.norm_eps)
        output = self.tok_embeddings if config.tied_output else weights["output.weight"]
        self.output = make_output(output)
        self.rope = Rope(config, max_seq_len)

    @torch.inference_mode()
    def forward(self, token_ids: list[int], cache: KVCache, stop: Event | None = None) -> Tensor:
        """Read ``token_ids`` after those in the cache; logits [vocab] of what follows the last one.

        Raises Cancelled, the cache unchanged, if ``stop`` is set while the blocks are at work.
        """
        start = len(cache)
        x = F.embedding(torch.tensor(token_ids), self.tok_embeddings).float()  # [seq, dim]
        rotate = self.rope.at(start, len(token_ids))
        mask = causal_mask(len(token_ids), start, self.config.n_heads // self.config.n_kv_heads)
        for layer, block in enumerate(self.blocks):
            if stop is not None and stop.is_set():
                raise Cancelled
            x = block(x, rotate, mask, cache, layer, start)
        cache.token_ids.extend(token_ids)
        return self.output(self.norm(x[-1:]))[0]


class Block:
    """One layer: attention, then feed-forward, each added to its input."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str) -> None:
        self.attention_norm = RMSNorm(weights[prefix + "attention_norm.weight"], config.norm_eps)
        self.attention = Attention(config, weights, prefix + "attention.")
        self.ffn_norm = RMSNorm(weights[prefix + "ffn_norm.weight"], config.norm_eps)
        self.feed_forward = FeedForward(weights, prefix + "feed_forward.")

    def __call__(
        self, x: Tensor, rotate: Rotate, mask: Tensor | None, cache: KVCache, layer: int, start: int
    ) -> Tensor:
        h = x + self.attention(self.attention_norm(x), rotate, mask, cache, layer, start)
        return h + self.feed_forward(self.ffn_norm(h))


class Attention:
    """Causal attention in which groups of heads share keys and values (arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str) -> None:
        self.n_kv_heads, self.head_dim = config.n_kv_heads, config.head_dim
        wqkv = [weights[f"{prefix}{name}.weight"] for name in ("wq", "wk", "wv")]
        self.wqkv = make_linear(*wqkv)
        self.n_rotated = wqkv[0].shape[0] // self.head_dim + self.n_kv_heads  # heads of q and k
        self.wo = make_linear(weights[prefix + "wo.weight"])

    def __call__(
        self, x: Tensor, rotate: Rotate, mask: Tensor | None, cache: KVCache, layer: int, start: int
    ) -> Tensor:
        seq = x.shape[0]
        heads = self.wqkv(x).view(seq, -1, self.head_dim)
        qk, v = heads[:, : self.n_rotated], heads[:, self.n_rotated :]
        qk = rotate(qk)
        q, k = qk[:, : -self.n_kv_heads], qk[:, -self.n_kv_heads :]
        keys, values = cache.store(layer, start, k, v)  # [n_kv_heads, start + seq, head_dim]
        # The heads of a group stand below each other as if they were more rows of one head, so
        # that the shared keys and values are read in place and not copied for each head.
        q = q.unflatten(1, (self.n_kv_heads, -1)).permute(1, 2, 0, 3)
        q = q.reshape(1, self.n_kv_heads, -1, self.head_dim).to(keys.dtype)  # [1, kv, group*seq, d]
        out = F.scaled_dot_product_attention(q, keys[None], values[None], attn_mask=mask)
        out = out.view(self.n_kv_heads, -1, seq, self.head_dim).permute(2, 0, 1, 3)
        return self.wo(out.reshape(seq, -1).float())


def causal_mask(seq: int, start: int, group: int) -> Tensor | None:
    """The keys each query may see: bool [group * seq, start + seq]; None if all of them."""
    if seq == 1:
        return None
    mask = torch.ones(seq, start + seq, dtype=torch.bool).tril(diagonal=start)
    return mask.repeat(group, 1)


class FeedForward:
    """SwiGLU (Shazeer, arXiv:2002.05202): w2(silu(w1 x) * w3 x)."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self.w13 = make_linear(weights[prefix + "w1.weight"], weights[prefix + "w3.weight"])
        self.w2 = make_linear(weights[prefix + "w2.weight"])

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.w13(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate).mul_(up))


class RMSNorm:
    """Root mean square norm (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        # Written out: F.rms_norm takes four times as long for one row on the CPU.
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
