"""The transformer decoder, from token ids to logits.

Read from top to bottom: model, block, then ``attention.py``, ``feed_forward.py``, ``norms.py``.
The files of the architectures (``qwen3.py``, ...) contain only their differences. Activations are
float32 throughout; only weights and the KV cache may have a smaller dtype. A forward pass processes
``seq`` tokens at once; there is no batch dimension, because one person talks to one model.
"""

from collections.abc import Callable, Iterable, Iterator
from threading import Event
from typing import Protocol

import torch
from torch import Tensor

from llama_cpu.errors import Cancelled
from llama_cpu.model.attention import Attention, Placement, RotaryPositions
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.feed_forward import FeedForward
from llama_cpu.model.kv_cache import KVCache, LayerCache
from llama_cpu.model.norms import HeadNorm, RMSNorm
from llama_cpu.weights.linear import PREFILL_CHUNK, Linear, Output, Weight, take_rows

Norm = Callable[[Tensor], Tensor]


class Positions(Protocol):
    """The position encoding of a model and its attention masks."""

    def place(self, start: int, seq: int) -> Placement:
        """Return the placement of ``seq`` tokens that follow ``start`` earlier tokens."""


class Layer(Protocol):
    """One layer of a model."""

    def __call__(self, x: Tensor, placement: Placement, cache: LayerCache) -> Tensor:
        """x: [seq, dim] -> [seq, dim], in the same memory."""


class FewTokens(Protocol):
    """A faster way to process a few tokens, such as ``fused.FusedPass``."""

    def takes(self, seq: int, cache: KVCache) -> bool:
        """Return whether it can process ``seq`` tokens with this cache."""

    def __call__(self, x: Tensor, position: int, logits: Tensor | None) -> None:
        """Process the tokens that follow ``position`` others.

        x: float32 [seq, dim], the embeddings, replaced by the output of the last layer. ``logits``:
        float32 [n, vocab], overwritten by those of the last n tokens.
        """


class Transformer:
    """A complete model. ``blocks`` are iterated once per pass and need not all be in memory."""

    def __init__(
        self,
        config: ModelConfig,
        tok_embeddings: Weight,
        blocks: Iterable[Layer],
        norm: Norm,
        output: Output,
        positions: Positions,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """``tok_embeddings``: [vocab, dim]. ``output``: dim -> vocab.

        ``prefill_chunk``: number of prompt tokens that are processed in one pass.
        """
        self.config = config
        self.prefill_chunk = prefill_chunk
        self.tok_embeddings = tok_embeddings
        self.blocks = blocks
        self.norm = norm
        self.output = output
        self.positions = positions
        self.few_tokens: FewTokens | None = None

    @torch.inference_mode()
    def forward(
        self,
        token_ids: list[int],
        cache: KVCache,
        stop: Event | None = None,
        all_logits: bool = False,
    ) -> Tensor:
        """Process ``token_ids`` after the cached tokens; return the last token's logits [vocab].

        ``all_logits``: return the logits of every token, [len(token_ids), vocab]. Raises Cancelled
        and leaves the cache unchanged if ``stop`` is set while the blocks are computed.
        """
        seq = len(token_ids)
        if self.few_tokens is not None and self.few_tokens.takes(seq, cache):
            if stop is not None and stop.is_set():
                raise Cancelled
            logits = torch.empty(seq if all_logits else 1, self.config.vocab_size)
            self.few_tokens(self._embeddings(token_ids), len(cache), logits)
            cache.extend(token_ids)
            return logits if all_logits else logits[0]
        for _, x in self._layers(token_ids, cache, stop):
            last = x  # after the loop, the output of the last layer
        return self.logits(last) if all_logits else self.logits(last[-1:])[0]

    def _layers(
        self, token_ids: list[int], cache: KVCache, stop: Event | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Run the layers of ``forward`` one by one, for callers that report progress.

        Yields the number of layers that are done, and the output of the last of them,
        [len(token_ids), dim], which overwrites the previous one. A few tokens are processed at
        once, and only the end is yielded.
        The tokens are appended to the cache before the last output is yielded. Raises Cancelled as
        ``forward`` does.
        """
        start = len(cache)
        x = self._embeddings(token_ids)
        if self.few_tokens is not None and self.few_tokens.takes(len(token_ids), cache):
            if stop is not None and stop.is_set():
                raise Cancelled
            self.few_tokens(x, start, None)
            cache.extend(token_ids)
            yield self.config.n_layers, x
            return
        placement = self.positions.place(start, len(token_ids))
        layers = cache.layers(len(token_ids))
        for number, (block, layer) in enumerate(zip(self.blocks, layers, strict=True), start=1):
            if stop is not None and stop.is_set():
                raise Cancelled
            x = block(x, placement, layer)
            if number == len(layers):
                cache.extend(token_ids)
            yield number, x

    def _embeddings(self, token_ids: list[int]) -> Tensor:
        """Return the embeddings of tokens: float32 [seq, dim]."""
        return take_rows(self.tok_embeddings, torch.tensor(token_ids))

    # Not used within forward, because inference mode would be entered again for every layer.
    layers = torch.inference_mode()(_layers)

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of the next token at each position: x [seq, dim] -> [seq, vocab].

        x: output of the last layer.
        """
        return self.output(self.norm(x))


class Block:
    """One layer: attention, then feed-forward; each is added to the residual stream in place."""

    def __init__(
        self, attention_norm: Norm, attention: Attention, ffn_norm: Norm, feed_forward: FeedForward
    ) -> None:
        self.attention_norm, self.attention = attention_norm, attention
        self.ffn_norm, self.feed_forward = ffn_norm, feed_forward

    def __call__(self, x: Tensor, placement: Placement, cache: LayerCache) -> Tensor:
        # In place, because a new x would fragment the memory that the next layer can reuse.
        x += self.attention(self.attention_norm(x), placement, cache)
        x += self.feed_forward(self.ffn_norm(x))
        return x


class WeightSource(Protocol):
    """Provides the weights of an architecture by the names in its table of tensors."""

    def norm(self, name: str) -> Tensor:
        """Return the weight of a norm: float32 [dim]."""

    def weight(self, name: str) -> Weight:
        """Return a table whose rows are looked up: [rows, dim]."""

    def linear(self, *names: str) -> Linear:
        """Return the product with one matrix, or the stacked product of several with one input.

        The product includes the biases if the architecture has them.
        """

    def output(self, tok_embeddings: Weight) -> Output:
        """Return the product with the output matrix, or with the embedding if they are tied."""


BuildBlock = Callable[[ModelConfig, int, WeightSource], Layer]


def build_block(
    config: ModelConfig, layer: int, weights: WeightSource, qk_norm: HeadNorm | None = None
) -> Block:
    """Build one layer of a LLaMA-like model. May be called repeatedly for the same layer."""
    attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
    return Block(
        RMSNorm(weights.norm(f"{attention}_norm"), config.norm_eps),
        Attention(
            config,
            wqkv=weights.linear(f"{attention}.wq", f"{attention}.wk", f"{attention}.wv"),
            wo=weights.linear(f"{attention}.wo"),
            qk_norm=qk_norm,
            rotary=layer not in config.unrotated_layers,
            sliding=layer in config.sliding_layers,
        ),
        RMSNorm(weights.norm(f"layers.{layer}.ffn_norm"), config.norm_eps),
        FeedForward(
            w13=weights.linear(f"{feed_forward}.w1", f"{feed_forward}.w3"),
            w2=weights.linear(f"{feed_forward}.w2"),
        ),
    )


def build_model(
    config: ModelConfig, weights: WeightSource, max_seq_len: int, build_block: BuildBlock
) -> Transformer:
    """Build a LLaMA-like model with all its layers in memory."""
    tok_embeddings = weights.weight("tok_embeddings")
    # The output is the largest matrix and twice in memory while it is packed, so it is built before
    # the layers, when most memory is free.
    output = weights.output(tok_embeddings)
    blocks = [build_block(config, layer, weights) for layer in range(config.n_layers)]
    norm = RMSNorm(weights.norm("norm"), config.norm_eps)
    positions = RotaryPositions(config, max_seq_len)
    return Transformer(config, tok_embeddings, blocks, norm, output, positions)
