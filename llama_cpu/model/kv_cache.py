"""The KV cache: keys and values of all tokens processed so far."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from llama_cpu.model.config import ModelConfig
from llama_cpu.system.memory import lazy_memory


class LayerCache(NamedTuple):
    """One layer's keys and values during a forward pass: views of the cache, not copies."""

    new: Tensor  # [seq, 2 * n_kv_heads, head_dim]: the pass writes its keys, then its values here
    keys: Tensor  # [1, n_kv_heads, seen, head_dim]: all keys to attend to, including new tokens
    values: Tensor


class KVCache:
    """Keys and values of up to ``max_seq_len`` tokens.

    The address space is reserved at once; memory is used only as the cache fills. ``token_ids`` are
    the cached tokens in order, with which ``reuse`` finds the prefix of a prompt that need not be
    computed again. Layers with a sliding window also cache all tokens, and attend to a view of the
    last ones.
    """

    def __init__(self, config: ModelConfig, max_seq_len: int, dtype: torch.dtype) -> None:
        self.max_seq_len = max_seq_len
        self.token_ids: list[int] = []
        self.most_used = 0  # highest number of tokens so far
        self.bytes_per_token = config.kv_cache_bytes(1, dtype.itemsize)
        self.nbytes = self.bytes_per_token * max_seq_len
        self.dtype = dtype
        self._layers, self._heads = config.n_layers, config.n_kv_heads
        self._head_dim = config.head_dim
        self._window, self._sliding_layers = config.sliding_window, config.sliding_layers
        self.scales: Tensor | None = None
        memory = torch.frombuffer(lazy_memory(self.nbytes), dtype=dtype)
        self.memory = memory.view(self.shape(max_seq_len))

    def __len__(self) -> int:
        return len(self.token_ids)

    def layers(self, seq: int) -> list[LayerCache]:
        """Return one LayerCache per layer for a forward pass over the next ``seq`` tokens."""
        start, end = len(self), len(self) + seq
        new = self.memory.flatten(1, 2)[:, :, start:end].transpose(1, 2).unbind(0)
        keys, values = self.memory[:, None, :, :, :end].unbind(2)
        layers = [
            LayerCache(*parts) for parts in zip(new, keys.unbind(0), values.unbind(0), strict=True)
        ]
        first = first_in_window(start, self._window)
        if first:
            for layer in self._sliding_layers:
                whole = layers[layer]
                layers[layer] = LayerCache(
                    whole.new, whole.keys[:, :, first:], whole.values[:, :, first:]
                )
        return layers

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of the keys and values of ``length`` tokens."""
        return (self._layers, 2, self._heads, length, self._head_dim)

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the keys and values of the first ``length`` tokens in contiguous pieces.

        Each piece is a view [length, head_dim] of the cache, in the order of ``shape``.
        """
        for layer in self.memory:
            for heads in layer:
                for head in heads:
                    yield head[:length]

    def extend(self, token_ids: list[int]) -> None:
        """Append tokens, once every layer has stored their keys and values."""
        self.token_ids.extend(token_ids)
        self.most_used = max(self.most_used, len(self))

    def truncate(self, length: int) -> None:
        """Remove all but the first ``length`` tokens."""
        del self.token_ids[length:]

    def reuse(self, prompt: list[int]) -> int:
        """Truncate the cache to its common prefix with the prompt, and return the prefix's length.

        The prefix never includes the prompt's last token, because its logits are needed.
        """
        common = 0
        for cached, wanted in zip(self.token_ids, prompt[:-1], strict=False):
            if cached != wanted:
                break
            common += 1
        self.truncate(common)
        return common


def first_in_window(position: int, window: int | None) -> int:
    """Return the position of the first token that a query at ``position`` attends to."""
    return 0 if window is None else max(0, position + 1 - window)
