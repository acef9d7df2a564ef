"""The KV cache: keys and values of every token that the model has read."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from llama_cpu.model.config import ModelConfig
from llama_cpu.system.memory import lazy_memory


class LayerCache(NamedTuple):
    """One layer's keys and values while some tokens are read: parts of the cache, not copies."""

    new: Tensor  # [seq, 2 * n_kv_heads, head_dim], where those of the tokens belong: keys first
    keys: Tensor  # [1, n_kv_heads, start + seq, head_dim], those of the tokens included
    values: Tensor


class KVCache:
    """Room for ``max_seq_len`` tokens, reserved at once and touched only as it fills.

    ``token_ids`` are the tokens whose keys and values it holds, in order; they say what of a new
    prompt need not be computed again.
    """

    def __init__(self, config: ModelConfig, max_seq_len: int, dtype: torch.dtype) -> None:
        self.max_seq_len = max_seq_len
        self.token_ids: list[int] = []
        self.most_used = 0  # tokens when it was fullest
        self.bytes_per_token = config.kv_cache_bytes(1, dtype.itemsize)
        self.nbytes = self.bytes_per_token * max_seq_len
        self.dtype = dtype
        self._layers, self._heads = config.n_layers, config.n_kv_heads
        self._head_dim = config.head_dim
        memory = torch.frombuffer(lazy_memory(self.nbytes), dtype=dtype)
        self._memory = memory.view(self.shape(max_seq_len))

    def __len__(self) -> int:
        return len(self.token_ids)

    def layers(self, seq: int) -> list[LayerCache]:
        """Each layer's part for reading ``seq`` more tokens; made once for all of them."""
        start, end = len(self), len(self) + seq
        new = self._memory.flatten(1, 2)[:, :, start:end].transpose(1, 2).unbind(0)
        keys, values = self._memory[:, None, :, :, :end].unbind(2)
        return [
            LayerCache(*parts) for parts in zip(new, keys.unbind(0), values.unbind(0), strict=True)
        ]

    def shape(self, length: int) -> tuple[int, ...]:
        """Of the keys and values of so many tokens."""
        return (self._layers, 2, self._heads, length, self._head_dim)

    def pieces(self, length: int) -> Iterator[Tensor]:
        """The first ``length`` tokens' keys and values, as far as they lie side by side in memory:
        parts [length, head_dim] of the cache, in the order of ``shape``."""
        for layer in self._memory:
            for heads in layer:
                for head in heads:
                    yield head[:length]

    def extend(self, token_ids: list[int]) -> None:
        """Count tokens as read, once every layer has stored their keys and values."""
        self.token_ids.extend(token_ids)
        self.most_used = max(self.most_used, len(self))

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        del self.token_ids[length:]

    def reuse(self, prompt: list[int]) -> int:
        """Forget what differs from the prompt; returns how many of its tokens are still there.

        At least the prompt's last token is left out, as its logits are needed.
        """
        common = 0
        for cached, wanted in zip(self.token_ids, prompt[:-1], strict=False):
            if cached != wanted:
                break
            common += 1
        self.truncate(common)
        return common
