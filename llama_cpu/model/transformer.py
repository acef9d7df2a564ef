"""The LLaMA transformer (Touvron et al., arXiv:2302.13971), from token ids to logits.

Read from top to bottom: model, block, attention, feed-forward, norm. Activations are float32
throughout; only weights and the KV cache may be kept in less. Shapes: seq tokens are processed
at once; there is no batch dimension, as one person talks to one model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_cpu.errors import Cancelled
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.kv_cache import KVCache, LayerCache
from llama_cpu.model.rope import Rope, Rotate
from llama_cpu.weights.linear import PREFILL_CHUNK, Linear, Output, Weight, take_rows


class Llama:
    """The whole model. ``blocks`` are resident, or come from elsewhere as they are asked for."""

    def __init__(
        self,
        config: ModelConfig,
        tok_embeddings: Weight,
        blocks: Iterable["Block"],
        norm: Tensor,
        output: Output,
        max_seq_len: int,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """``tok_embeddings``: [vocab, dim]. ``output``: dim -> vocab.

        ``prefill_chunk``: how many tokens of a prompt are to be read at once.
        """
        self.config = config
        self.prefill_chunk = prefill_chunk
        self.tok_embeddings = tok_embeddings
        self.blocks = blocks
        self.norm = RMSNorm(norm, config.norm_eps)
        self.output = output
        self.rope = Rope(config, max_seq_len)

    @torch.inference_mode()
    def forward(
        self,
        token_ids: list[int],
        cache: KVCache,
        stop: Event | None = None,
        all_logits: bool = False,
    ) -> Tensor:
        """Read ``token_ids`` after those in the cache; logits [vocab] of what follows the last one.

        ``all_logits``: of what follows each of them, [len(token_ids), vocab]. Raises Cancelled, the
        cache unchanged, if ``stop`` is set while the blocks are at work.
        """
        for x in self._layers(token_ids, cache, stop):
            last = x  # layer's, in the end
        return self.logits(last) if all_logits else self.logits(last[-1:])[0]

    def _layers(
        self, token_ids: list[int], cache: KVCache, stop: Event | None = None
    ) -> Iterator[Tensor]:
        """``forward`` layer by layer, for those who show how far it is.

        Yields what each layer gives, [len(token_ids), dim], in the same memory as the one before;
        the last comes when all of them are read. Raises as ``forward``.
        """
        start = len(cache)
        x = take_rows(self.tok_embeddings, torch.tensor(token_ids))  # [seq, dim]
        rotate = self.rope.at(start, len(token_ids))
        mask = causal_mask(len(token_ids), start, self.config.n_heads // self.config.n_kv_heads)
        layers = cache.layers(len(token_ids))
        for number, (block, layer) in enumerate(zip(self.blocks, layers, strict=True), start=1):
            if stop is not None and stop.is_set():
                raise Cancelled
            x = block(x, rotate, mask, layer)
            if number == len(layers):
                cache.extend(token_ids)
            yield x

    layers = torch.inference_mode()(_layers)  # within forward it would be entered once a layer

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """Of what follows each token: the last layer's x, [seq, dim], to [seq, vocab]."""
        return self.output(self.norm(x))


@dataclass(frozen=True)
class BlockParts:
    """What a layer is made of. Norms: float32 [dim]."""

    attention_norm: Tensor
    wqkv: Linear  # wq, wk and wv read the same input: dim -> all heads of q, then k, then v
    wo: Linear
    ffn_norm: Tensor
    w13: Linear  # w1 and w3, likewise
    w2: Linear


class WeightSource(Protocol):
    """Where an architecture gets its weights from, by their names."""

    def norm(self, name: str) -> Tensor:
        """A vector: float32 [dim]."""

    def linear(self, *names: str) -> Linear:
        """The product with one matrix, or with several that read the same input, stacked."""


def build_block(config: ModelConfig, layer: int, weights: WeightSource) -> "Block":
    """Build one layer. May be called again and again for the same layer."""
    attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
    parts = BlockParts(
        attention_norm=weights.norm(f"{attention}_norm"),
        wqkv=weights.linear(f"{attention}.wq", f"{attention}.wk", f"{attention}.wv"),
        wo=weights.linear(f"{attention}.wo"),
        ffn_norm=weights.norm(f"layers.{layer}.ffn_norm"),
        w13=weights.linear(f"{feed_forward}.w1", f"{feed_forward}.w3"),
        w2=weights.linear(f"{feed_forward}.w2"),
    )
    return Block(config, parts)


class Block:
    """One layer: attention, then feed-forward, each added to its input in place."""

    def __init__(self, config: ModelConfig, parts: BlockParts) -> None:
        self.attention_norm = RMSNorm(parts.attention_norm, config.norm_eps)
        self.attention = Attention(config, parts.wqkv, parts.wo)
        self.ffn_norm = RMSNorm(parts.ffn_norm, config.norm_eps)
        self.feed_forward = FeedForward(parts.w13, parts.w2)

    def __call__(self, x: Tensor, rotate: Rotate, mask: Tensor | None, cache: LayerCache) -> Tensor:
        # In place, as x would else cut up the memory that the next layer can take again.
        x += self.attention(self.attention_norm(x), rotate, mask, cache)
        x += self.feed_forward(self.ffn_norm(x))
        return x


class Attention:
    """Causal attention in which groups of heads share keys and values (arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, wqkv: Linear, wo: Linear) -> None:
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        self.wqkv, self.wo = wqkv, wo

    def __call__(self, x: Tensor, rotate: Rotate, mask: Tensor | None, cache: LayerCache) -> Tensor:
        seq, kv = x.shape[0], self.n_kv_heads
        heads = self.wqkv(x).float().view(seq, -1, self.head_dim)  # of q, then k, then v
        rotate(heads[:, :-kv])
        cache.new.copy_(heads[:, self.n_heads :])
        # The heads of a group stand below each other as if they were more rows of one head, so
        # that the shared keys and values are read in place and not copied for each head.
        q = heads[:, : self.n_heads].transpose(0, 1).reshape(1, kv, -1, self.head_dim)
        q = q.to(cache.keys.dtype)  # [1, kv, group * seq, d]
        out = F.scaled_dot_product_attention(q, cache.keys, cache.values, attn_mask=mask)
        return self.wo(out.view(self.n_heads, seq, -1).transpose(0, 1).reshape(seq, -1))


def causal_mask(seq: int, start: int, group: int) -> Tensor | None:
    """The keys each query may see: bool [group * seq, start + seq]; None if all of them."""
    if seq == 1:
        return None
    mask = torch.ones(seq, start + seq, dtype=torch.bool).tril(diagonal=start)
    return mask.repeat(group, 1)


class FeedForward:
    """SwiGLU (Shazeer, arXiv:2002.05202): w2(silu(w1 x) * w3 x)."""

    def __init__(self, w13: Linear, w2: Linear) -> None:
        self.w13, self.w2 = w13, w2

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.w13(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate, inplace=True).mul_(up))


class RMSNorm:
    """Root mean square norm (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        # x / sqrt(mean of squares + eps), both sides of the stroke times sqrt(dim).
        self.weight = weight * len(weight) ** 0.5
        self.least = torch.tensor((eps * len(weight)) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        # vector_norm is the one reduction that is quick for one row and for many; F.rms_norm
        # takes three times as long for one, and 40 times for 512.
        size = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # [seq, 1]
        return (x * self.weight).div_(torch.hypot(size, self.least))
