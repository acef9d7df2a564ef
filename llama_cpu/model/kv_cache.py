"""The KV cache: keys and values of all tokens processed so far."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from llama_cpu.model.config import ModelConfig
from llama_cpu.system.memory import lazy_memory
from llama_cpu.weights.int8_rows import quantize_rows


class LayerViews(NamedTuple):
    """One layer's part of a cache during a forward pass: views of its memory, not copies.

    ``width`` is head_dim, or 1 for the scales of an int8 cache.
    """

    new: Tensor  # [seq, 2 * n_kv_heads, width]: keys, then values of the tokens of the pass
    keys: Tensor  # [1, n_kv_heads, seen, width]: of all tokens to attend to, the new ones included
    values: Tensor


class LayerCache(NamedTuple):
    """One layer's keys and values during a forward pass, whatever the cache keeps them as."""

    kept: LayerViews
    scales: LayerViews | None  # of an int8 cache

    def store(self, new: Tensor) -> None:
        """Store the new tokens' keys, then values: float32 [seq, 2 * n_kv_heads, head_dim]."""
        if self.scales is None:
            self.kept.new.copy_(new)
        else:
            quantize_rows(new.clone(), self.kept.new, self.scales.new.squeeze(-1))

    def keys(self) -> Tensor:
        """Return the keys to attend to, those of the new tokens included.

        The shape is [1, n_kv_heads, seen, head_dim]. Those of a float cache are a view in its type,
        those of an int8 cache a copy in float32.
        """
        return self.kept.keys if self.scales is None else _read(self.kept.keys, self.scales.keys)

    def values(self) -> Tensor:
        """Return the values that belong to ``keys``, in the same shape and type."""
        if self.scales is None:
            return self.kept.values
        return _read(self.kept.values, self.scales.values)


class KVCache:
    """Keys and values of up to ``max_seq_len`` tokens.

    The address space is reserved at once; memory is used only as the cache fills. ``token_ids`` are
    the cached tokens in order, with which ``reuse`` finds the prefix of a prompt that need not be
    computed again. Layers with a sliding window also cache all tokens, and attend to a view of the
    last ones.

    ``memory`` is [n_layers, 2, n_kv_heads, max_seq_len, head_dim], keys before values. An int8
    cache has ``scales``, float32 [n_layers, 2, n_kv_heads, max_seq_len]: a head's vector is its
    numbers times its scale, and its largest magnitude is 127 (see ``quantize_rows``). Both are
    contiguous and never move, because compiled kernels read them by address.
    """

    def __init__(self, config: ModelConfig, max_seq_len: int, dtype: torch.dtype) -> None:
        """``dtype``: float32, bfloat16 or int8."""
        self.max_seq_len = max_seq_len
        self.token_ids: list[int] = []
        self.most_used = 0  # highest number of tokens so far
        self.bytes_per_token = config.kv_cache_bytes(1, dtype)
        self.nbytes = self.bytes_per_token * max_seq_len
        self.dtype = dtype
        self._layers, self._heads = config.n_layers, config.n_kv_heads
        self._head_dim = config.head_dim
        self._window, self._sliding_layers = config.sliding_window, config.sliding_layers
        shape = self.shape(max_seq_len)
        self.memory: Tensor = _lazy_tensor(shape, dtype)
        self.scales: Tensor | None = None
        if dtype is torch.int8:
            self.scales = _lazy_tensor(shape[:-1], torch.float32)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def type_name(self) -> str:
        """Name of the type that keys and values are kept in, such as ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def layers(self, seq: int) -> list[LayerCache]:
        """Return one LayerCache per layer for a forward pass over the next ``seq`` tokens."""
        kept = self._views(self.memory, seq)
        if self.scales is None:
            return [LayerCache(views, None) for views in kept]
        return list(map(LayerCache, kept, self._views(self.scales.unsqueeze(-1), seq)))

    def _views(self, memory: Tensor, seq: int) -> list[LayerViews]:
        """``memory``: [n_layers, 2, n_kv_heads, max_seq_len, width]."""
        start, end = len(self), len(self) + seq
        new = memory.flatten(1, 2)[:, :, start:end].transpose(1, 2).unbind(0)
        keys, values = memory[:, None, :, :, :end].unbind(2)
        layers = list(map(LayerViews, new, keys.unbind(0), values.unbind(0)))
        first = first_in_window(start, self._window)
        if first:
            for layer in self._sliding_layers:
                whole = layers[layer]
                layers[layer] = LayerViews(
                    whole.new, whole.keys[:, :, first:], whole.values[:, :, first:]
                )
        return layers

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of the keys and values of ``length`` tokens.

        The shape of their scales is the same without the last dimension.
        """
        return (self._layers, 2, self._heads, length, self._head_dim)

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the keys and values of the first ``length`` tokens in contiguous pieces.

        Each piece is a view [length, head_dim] of the cache, in the order of ``shape``.
        """
        for head in self.memory.flatten(0, 2):
            yield head[:length]

    def scale_pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the scales that belong to ``pieces``: views [length]. A float cache has none."""
        if self.scales is not None:
            for head in self.scales.flatten(0, 2):
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


def _lazy_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of zeros that occupies memory only where it was written."""
    memory = lazy_memory(math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _read(numbers: Tensor, scales: Tensor) -> Tensor:
    """Dequantise int8 ``numbers`` [..., head_dim] with float32 ``scales`` [..., 1]."""
    # In two steps, because one product of both types takes up to 1.7 times as long.
    return numbers.float().mul_(scales)


def first_in_window(position: int, window: int | None) -> int:
    """Return the position of the first token that a query at ``position`` attends to."""
    return 0 if window is None else max(0, position + 1 - window)
