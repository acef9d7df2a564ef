import torch

from llama_cpu.transformer.kv_cache import KVCache
from tests.support.checkpoints import tiny_config


def new_cache(dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(tiny_config(n_kv_heads=2), 32, dtype)


def test_store_returns_all_that_came_so_far() -> None:
    cache = new_cache()
    first, second = torch.randn(5, 2, 16), torch.randn(3, 2, 16)
    cache.store(1, 0, first, -first)
    keys, values = cache.store(1, 5, second, -second)
    expected = torch.cat([first, second]).transpose(0, 1)
    assert torch.equal(keys, expected)
    assert torch.equal(values, -expected)


def test_layers_do_not_share() -> None:
    cache = new_cache()
    cache.store(0, 0, torch.ones(4, 2, 16), torch.ones(4, 2, 16))
    keys, _ = cache.store(1, 3, torch.zeros(1, 2, 16), torch.zeros(1, 2, 16))
    assert keys.abs().sum() == 0


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
