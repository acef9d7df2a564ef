"""The KV cache: keys and values of every token that the model has read."""

import torch
from torch import Tensor

from llama_cpu.config import ModelConfig
from llama_cpu.machine import lazy_memory


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
        shape = (config.n_layers, 2, config.n_kv_heads, max_seq_len, config.head_dim)
        memory = torch.frombuffer(lazy_memory(self.nbytes), dtype=dtype).view(shape)
        self._layers = [(layer[0], layer[1]) for layer in memory]

    def __len__(self) -> int:
        return len(self.token_ids)

    def store(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep one layer's k and v, each [seq, n_kv_heads, head_dim], at positions from ``start``.

        Returns all keys and values so far, each [n_kv_heads, start + seq, head_dim].
        """
        keys, values = self._layers[layer]
        end = start + k.shape[0]
        keys[:, start:end] = k.transpose(0, 1)
        values[:, start:end] = v.transpose(0, 1)
        return keys[:, :end], values[:, :end]

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
