import torch

from llama_cpu.model.kv_cache import KVCache, LayerCache
from tests.support.checkpoints import tiny_config


def new_cache(dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(tiny_config(n_kv_heads=2), 32, dtype)


def keep(cache: KVCache, layer: int, tokens: torch.Tensor) -> LayerCache:
    """Store [seq, 2, 16] as one layer's keys and its negative as values."""
    part = cache.layers(len(tokens))[layer]
    part.new.copy_(torch.cat([tokens, -tokens], dim=1))
    return part


def test_a_layer_has_all_that_came_so_far() -> None:
    cache = new_cache()
    first, second = torch.randn(5, 2, 16), torch.randn(3, 2, 16)
    keep(cache, 1, first)
    cache.extend([0] * 5)
    part = keep(cache, 1, second)
    expected = torch.cat([first, second]).transpose(0, 1)
    assert torch.equal(part.keys[0], expected)
    assert torch.equal(part.values[0], -expected)


def test_layers_do_not_share() -> None:
    cache = new_cache()
    keep(cache, 0, torch.ones(4, 2, 16))
    cache.extend([0] * 4)
    assert cache.layers(1)[1].keys.abs().sum() == 0
    assert cache.layers(1)[0].keys.abs().sum() == 4 * 2 * 16


def test_truncated_tokens_are_forgotten_but_were_there() -> None:
    cache = new_cache()
    cache.extend([1, 2, 3])
    cache.truncate(1)
    assert cache.token_ids == [1]
    assert cache.most_used == 3


def test_reuse_is_the_longest_common_prefix() -> None:
    cache = new_cache()
    cache.token_ids = [1, 2, 3, 4]
    assert cache.reuse([1, 2, 9, 4, 5]) == 2
    assert cache.token_ids == [1, 2]


def test_reuse_leaves_the_last_token_to_be_computed() -> None:
    cache = new_cache()
    cache.token_ids = [1, 2, 3, 4]
    assert cache.reuse([1, 2, 3]) == 2
    assert cache.reuse([]) == 0


def test_sizes() -> None:
    assert new_cache().nbytes == 2 * 2 * 2 * 32 * 16 * 4
    assert new_cache(torch.bfloat16).nbytes == new_cache().nbytes // 2
    assert new_cache().bytes_per_token * 32 == new_cache().nbytes
