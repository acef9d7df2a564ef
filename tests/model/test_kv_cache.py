"""The KV cache, and what attention reads from it in each type."""

from pathlib import Path

import pytest
import torch

from llama_cpu.model.kv_cache import KVCache, LayerCache
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import greedy, load_tiny
from tests.support.families import random_model, save

TYPES = [torch.float32, torch.bfloat16, torch.int8]
TEXT = [256, *b"It was the best of times, it was the worst of times, it was the age of wisdom."]


def new_cache(dtype: torch.dtype = torch.float32, **changes) -> KVCache:
    return KVCache(tiny_config(n_kv_heads=2, **changes), 32, dtype)


def keep(cache: KVCache, layer: int, tokens: torch.Tensor) -> LayerCache:
    """Store [seq, 2, 16] as one layer's keys and its negative as values."""
    part = cache.layers(len(tokens))[layer]
    part.store(torch.cat([tokens, -tokens], dim=1))
    return part


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 0), (torch.bfloat16, 1 / 256), (torch.int8, 0.5 / 127)]
)
def test_a_layer_has_all_that_came_so_far(dtype: torch.dtype, error: float) -> None:
    """``error``: half a step, relative to the number itself or, in int8, to the head's largest."""
    cache = new_cache(dtype)
    first, second = torch.randn(5, 2, 16), torch.randn(3, 2, 16)
    keep(cache, 1, first)
    cache.extend([0] * 5)
    part = keep(cache, 1, second)
    expected = torch.cat([first, second]).transpose(0, 1)
    allowed = error * expected.abs().amax(-1, keepdim=True) * 1.0001
    assert ((part.keys()[0].float() - expected).abs() <= allowed).all()
    assert ((part.values()[0].float() + expected).abs() <= allowed).all()
    assert part.keys().dtype == (torch.float32 if dtype is torch.int8 else dtype)


def test_what_is_stored_is_left_as_it_was() -> None:
    new = torch.randn(5, 4, 16)
    before = new.clone()
    new_cache(torch.int8).layers(5)[0].store(new)
    assert torch.equal(new, before)


def test_int8_has_a_scale_for_each_head_and_token() -> None:
    """The layout that compiled kernels read: keys before values, each head's tokens in a row."""
    cache = new_cache(torch.int8)
    new = torch.randn(5, 4, 16) * torch.logspace(-3, 3, 20).view(5, 4, 1)
    new[2, 3] = 0
    new[3, 0, 7] = 1e4  # one large number costs the precision of its own head only
    cache.extend([0] * 3)
    cache.layers(5)[1].store(new)
    assert cache.scales is not None
    assert cache.memory.shape == (2, 2, 2, 32, 16) and cache.memory.dtype is torch.int8
    assert cache.scales.shape == (2, 2, 2, 32) and cache.scales.dtype is torch.float32
    assert cache.memory.is_contiguous() and cache.scales.is_contiguous()
    for token in range(5):
        for head in range(4):
            vector, place = new[token, head], (1, *divmod(head, 2), 3 + token)
            scale = vector.abs().max() / 127
            assert cache.scales[place] == scale
            expected = (vector / scale).round() if scale else torch.zeros(16)
            assert torch.equal(cache.memory[place].float(), expected)
    used = cache.scales[1, :, :, 3:8] > 0
    assert used.sum() == 19 and (cache.scales > 0).sum() == 19


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_do_not_become_finite(bad: float) -> None:
    """So that damaged weights are noticed in the logits, as with a float cache."""
    cache = new_cache(torch.int8)
    new = torch.ones(1, 4, 16)
    new[0, 0, 3] = bad
    layer = cache.layers(1)[0]
    layer.store(new)
    assert not layer.keys()[0, 0].isfinite().all()
    assert layer.keys()[0, 1].isfinite().all()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_layers_do_not_share(dtype: torch.dtype) -> None:
    cache = new_cache(dtype)
    keep(cache, 0, torch.ones(4, 2, 16))
    cache.extend([0] * 4)
    assert cache.layers(1)[1].keys().abs().sum() == 0
    assert cache.layers(1)[0].keys().float().sum() == pytest.approx(4 * 2 * 16)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_layer_with_a_window_has_its_last_tokens(dtype: torch.dtype) -> None:
    tokens = torch.arange(1.0, 11.0).view(10, 1, 1).expand(10, 2, 16)
    cache = new_cache(dtype, sliding_window=4, sliding_layers=(1,))
    for layer in (0, 1):
        keep(cache, layer, tokens)
    cache.extend([0] * 10)
    whole, window = cache.layers(1)
    assert whole.keys()[0, 1, :10, 5].tolist() == pytest.approx(list(range(1, 11)))
    assert window.keys()[0, 1, :3, 5].tolist() == pytest.approx([8, 9, 10])
    assert window.values()[0, 1, :3, 5].tolist() == pytest.approx([-8, -9, -10])
    assert window.keys().shape == window.values().shape == (1, 2, 4, 16)


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
    assert new_cache(torch.int8).nbytes == 2 * 2 * 2 * 32 * (16 + 4)
    for dtype in TYPES:
        cache = new_cache(dtype)
        scales = 0 if cache.scales is None else cache.scales.nbytes
        assert cache.bytes_per_token * 32 == cache.nbytes == cache.memory.nbytes + scales


@pytest.fixture(params=["llama", "mistral, window"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose query heads share key-value heads; the second one has a sliding window."""
    if request.param == "llama":
        config = tiny_config(n_kv_heads=2)
        return write_meta(tmp_path, config, random_weights(config))
    return save(random_model("mistral", sliding_window=16), tmp_path)


def test_an_int8_cache_gives_close_logits(folder: Path) -> None:
    exact, loaded = load_tiny(folder), load_tiny(folder, kv_int8=True)
    assert loaded.model.config.n_heads > loaded.model.config.n_kv_heads
    assert loaded.cache.dtype is torch.int8
    expected = exact.model.forward(TEXT, exact.cache, all_logits=True)
    logits = loaded.model.forward(TEXT, loaded.cache, all_logits=True)
    assert 0 < float((logits - expected).norm() / expected.norm()) < 0.04


def test_an_int8_cache_gives_mostly_the_same_answer(folder: Path) -> None:
    """Token by token, because random models go other ways after the first difference."""
    exact, loaded = load_tiny(folder), load_tiny(folder, kv_int8=True)
    answer = greedy(exact, TEXT, 32)
    logits = loaded.model.forward(TEXT + answer[:-1], loaded.cache, all_logits=True)
    predicted = logits[len(TEXT) - 1 :].argmax(-1).tolist()
    assert sum(one == other for one, other in zip(predicted, answer, strict=True)) >= 28


def test_an_int8_cache_in_passes_of_any_size(folder: Path) -> None:
    """Chunks of a prompt, single tokens, and the few rows that speculative decoding checks."""
    loaded = load_tiny(folder, kv_int8=True)
    whole = loaded.model.forward(TEXT, loaded.cache)
    for size in (1, 4, 30):
        loaded.cache.truncate(0)
        for first in range(0, len(TEXT), size):
            logits = loaded.model.forward(TEXT[first : first + size], loaded.cache)
        # A rounding difference before quantizing may change a number by a whole step.
        assert float((logits - whole).norm() / whole.norm()) < 0.01


def test_a_truncated_int8_cache_is_reused(folder: Path) -> None:
    other = [*TEXT[:40], *b" of nobody in particular"]
    loaded, fresh = load_tiny(folder, kv_int8=True), load_tiny(folder, kv_int8=True)
    greedy(loaded, TEXT, 20)
    assert loaded.cache.reuse(other) == 40
    logits = loaded.model.forward(other[40:], loaded.cache)
    fresh.model.forward(other[:40], fresh.cache)
    expected = fresh.model.forward(other[40:], fresh.cache)
    assert float((logits - expected).norm() / expected.norm()) < 0.01
