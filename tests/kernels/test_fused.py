"""A whole pass as one compiled function gives what the plain way gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_cpu.kernels.layout import I8_CACHE
from llama_cpu.loading.load import LoadedModel
from llama_cpu.model.fused import CACHES, FusedPass, fuse
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Block, Transformer
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.kernel_linear import FEW_ROWS, KernelLinear
from llama_cpu.weights.linear import SeparateLinears
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.engine import load_tiny
from tests.support.families import random_model, save, save_gguf

CONTEXT = 600  # with one key-value head and two or more threads, several parts of 128 keys and more
MAX_SEQ_LEN = 704
IDS = [(7 * index + index // 11) % 320 for index in range(MAX_SEQ_LEN)]
ONE_HEAD: dict[str, Any] = {"num_key_value_heads": 1, "num_hidden_layers": 2}
UPPER = {"use_sliding_window": True, "max_window_layers": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied, heads of 8": {
        "tie_word_embeddings": True,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "llama, heads of 128": {**ONE_HEAD, "head_dim": 128, "num_attention_heads": 2},
    "llama, dim that fills no vector": {"hidden_size": 60, "head_dim": 16, "intermediate_size": 52},
    "mistral": {**ONE_HEAD, "head_dim": 24},
    "qwen2": {**ONE_HEAD},
    "qwen2, tied, a head of keys for each of queries": {
        "tie_word_embeddings": True,
        "num_key_value_heads": 4,
    },
    "qwen3": {**ONE_HEAD},
    "qwen3, tied, heads of 64": {"tie_word_embeddings": True, "head_dim": 64},
    "smollm3": {"num_hidden_layers": 5, "num_key_value_heads": 1},
    "qwen2, window in upper layers": {**ONE_HEAD, **UPPER, "sliding_window": 300},
    "qwen3, window in upper layers": {**ONE_HEAD, **UPPER, "sliding_window": 40},
    "smollm3, window": {
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 150,
    },
}


def load_case(case: str, folder: Path, **changes: Any) -> LoadedModel:
    name = case.split(",")[0]
    model = random_model(name, **{**FAMILIES[case], **changes})
    return load_tiny(save(model, folder), max_seq_len=MAX_SEQ_LEN)


def fused(model: Transformer, cache: KVCache, threads: int) -> FusedPass:
    few = fuse(model, cache, threads)
    assert few is not None
    return few


def run(model: Transformer, cache: KVCache, ids: list[int], few: FusedPass | None) -> Tensor:
    """Logits of all of these tokens, computed by ``few`` or plainly; the cache stays as it was."""
    model.few_tokens = few
    start = len(cache)
    logits = model.forward(ids, cache, all_logits=True)
    cache.truncate(start)
    return logits


def fill(model: Transformer, cache: KVCache, count: int) -> None:
    model.few_tokens = None
    cache.truncate(0)
    if count:
        model.forward(IDS[:count], cache)


def assert_same_passes(loaded: LoadedModel, few: FusedPass, sizes: range) -> None:
    model, cache = loaded.model, loaded.cache
    start = len(cache)
    for size in sizes:
        ids = IDS[start : start + size]
        expected = run(model, cache, ids, None)
        written = cache.memory[:, :, :, start : start + size].clone()
        cache.memory[:, :, :, start : start + size] = torch.nan
        assert torch.allclose(run(model, cache, ids, few), expected, atol=1e-4), size
        again = cache.memory[:, :, :, start : start + size]
        assert torch.allclose(again, written, rtol=1e-4, atol=1e-4), size


def greedy_ids(model: Transformer, cache: KVCache, few: FusedPass | None, start: int) -> list[int]:
    fill(model, cache, start)
    model.few_tokens = few
    ids = IDS[start : start + 1]
    for _ in range(20):
        ids.append(int(model.forward(ids[-1:], cache).argmax()))
    return ids


@pytest.mark.parametrize("case", FAMILIES)
def test_logits_and_greedy_ids(case: str, tmp_path: Path) -> None:
    loaded = load_case(case, tmp_path)
    model, cache = loaded.model, loaded.cache
    assert isinstance(model.few_tokens, FusedPass)
    for threads in (1, 2, 3, 4):
        few = fused(model, cache, threads)
        for start in (0, 1, CONTEXT):
            fill(model, cache, start)
            assert_same_passes(loaded, few, range(1, 18) if threads == 2 else range(1, 18, 5))
    few = fused(model, cache, 4)
    for start in (0, CONTEXT):
        assert greedy_ids(model, cache, few, start) == greedy_ids(model, cache, None, start)


def test_which_passes_are_taken(tmp_path: Path) -> None:
    loaded = load_case("llama", tmp_path)
    few = loaded.model.few_tokens
    assert few is not None
    assert few.takes(1, loaded.cache) and few.takes(FEW_ROWS, loaded.cache)
    assert not few.takes(FEW_ROWS + 1, loaded.cache)
    other = KVCache(loaded.model.config, 64, torch.float32)
    assert not few.takes(1, other)
    assert len(loaded.model.forward(IDS[:3], other)) == 320  # plainly


# With 4 threads and 600 keys there are 4 parts of 150 keys. A window of 600 begins at a part, one
# of 599 within it, and with a window of 128 keys or fewer there is one part.
@pytest.mark.parametrize("window", [1, 2, 17, 127, 128, 129, 130, 256, 257, 300, 599, 600, 601])
def test_windows(window: int, tmp_path: Path) -> None:
    loaded = load_case("mistral", tmp_path, sliding_window=window)
    few = fused(loaded.model, loaded.cache, 4)
    for start in (max(0, window - 3), window, CONTEXT):
        fill(loaded.model, loaded.cache, start)
        assert_same_passes(loaded, few, range(1, 16, 2))


@pytest.mark.parametrize("start", [127, 128, 129, 255, 256, 257, 511, 512, 513])
def test_contexts_around_the_ends_of_parts(start: int, tmp_path: Path) -> None:
    loaded = load_case("llama", tmp_path, **ONE_HEAD)
    fill(loaded.model, loaded.cache, start)
    assert_same_passes(loaded, fused(loaded.model, loaded.cache, 4), range(1, 16, 7))


@pytest.mark.parametrize("mmap", [True, False])
def test_mapped_and_converted_weights(mmap: bool, tmp_path: Path) -> None:
    """Mapped matrices with one input are separate, and converted ones are one matrix."""
    folder = save(random_model("qwen2"), tmp_path)
    loaded = load_tiny(folder, max_seq_len=MAX_SEQ_LEN, mmap=mmap)
    (block, *_) = list(loaded.model.blocks)
    assert isinstance(block, Block)
    is_separate = isinstance(getattr(block.attention.wqkv, "linear", None), SeparateLinears)
    assert is_separate == mmap
    assert bool(loaded.mapped_bytes) == mmap
    few = fused(loaded.model, loaded.cache, 2)
    for start in (0, CONTEXT):
        fill(loaded.model, loaded.cache, start)
        assert_same_passes(loaded, few, range(1, 16, 3))


def test_neighbouring_rotary_pairs(tmp_path: Path) -> None:
    """GGUF files have them."""
    path = save_gguf(random_model("llama"), tmp_path / "m.gguf")
    loaded = load_tiny(path, max_seq_len=MAX_SEQ_LEN)
    assert loaded.model.config.rope_interleaved
    few = fused(loaded.model, loaded.cache, 2)
    fill(loaded.model, loaded.cache, CONTEXT)
    assert_same_passes(loaded, few, range(1, 16, 3))


@pytest.mark.parametrize("precision", [BF16, INT8, INT4])
def test_smaller_weights(precision: WeightFormat, tmp_path: Path) -> None:
    """Compared with the same products, with a cache in float32."""
    loaded = load_tiny(save(random_model("llama"), tmp_path), precision=precision)
    model, cache = loaded.model, KVCache(loaded.model.config, 512, torch.float32)
    few = fuse(model, cache, 2)
    is_kernel = isinstance(model.output, KernelLinear)
    assert (few is not None) == is_kernel
    if few is None:
        return  # this processor has faster products than kernels for the format
    fill(model, cache, 300)
    for size in (1, 2, 5, 15):
        expected = run(model, cache, IDS[300 : 300 + size], None)
        assert torch.allclose(run(model, cache, IDS[300 : 300 + size], few), expected, atol=2e-3)


def relative_error(logits: Tensor, exact: Tensor) -> float:
    return float((logits - exact).norm() / exact.norm())


def test_a_cache_in_bfloat16(tmp_path: Path) -> None:
    folder = save(random_model("llama", **ONE_HEAD), tmp_path)
    loaded = load_tiny(folder, precision=BF16, max_seq_len=MAX_SEQ_LEN)
    model, small = loaded.model, loaded.cache
    assert small.dtype == torch.bfloat16
    whole = KVCache(model.config, MAX_SEQ_LEN, torch.float32)
    fill(model, whole, CONTEXT)
    fill(model, small, CONTEXT)
    few, ids = fused(model, small, 4), IDS[CONTEXT : CONTEXT + 5]
    exact = run(model, whole, ids, None)
    plain = run(model, small, ids, None)
    logits = run(model, small, ids, few)
    # Queries and sums are float32, which the plain way rounds to bfloat16.
    assert relative_error(logits, exact) <= relative_error(plain, exact) * 1.1 < 0.05
    # In the first layer, keys and values have the same inputs.
    end = CONTEXT + 5
    written, exact = small.memory[0, :, :, CONTEXT:end], whole.memory[0, :, :, CONTEXT:end]
    assert torch.allclose(written.float(), exact, rtol=2**-8, atol=1e-6)
    # Sums in another order may be on the other side of a tie.
    assert (written == exact.bfloat16()).float().mean() > 0.99


def test_a_cache_in_int8(tmp_path: Path) -> None:
    loaded = load_case("llama", tmp_path, **ONE_HEAD)
    model, config = loaded.model, loaded.model.config
    assert CACHES[torch.int8][1] == I8_CACHE
    small = KVCache(config, MAX_SEQ_LEN, torch.int8)
    small.scales = torch.zeros(small.shape(MAX_SEQ_LEN)[:-1])
    few = fused(model, small, 4)
    logits = []
    fill(model, loaded.cache, CONTEXT)
    for start in range(0, CONTEXT, 15):
        ids = IDS[start : min(start + 15, CONTEXT)]
        model.few_tokens = few
        logits.append(model.forward(ids, small, all_logits=True))
    loaded.cache.truncate(0)
    exact = run(model, loaded.cache, IDS[:CONTEXT], None)
    assert relative_error(torch.cat(logits), exact) < 0.05
    values = small.memory[0, 1].float() * small.scales[0, 1][..., None]
    expected = loaded.cache.memory[0, 1]
    largest = expected[:, :CONTEXT].abs().amax(dim=2, keepdim=True)
    difference = (values - expected)[:, :CONTEXT].abs()
    assert (difference <= 0.51 * largest / 127 + 1e-6).all()


def test_heads_that_fill_no_vector_are_left_to_the_plain_way(tmp_path: Path) -> None:
    loaded = load_case("qwen3", tmp_path, head_dim=12)
    assert loaded.model.few_tokens is None
    assert fuse(loaded.model, loaded.cache, 2) is None
    assert loaded.model.forward(IDS[:3], loaded.cache).isfinite().all()


def test_an_unknown_part_is_left_to_the_plain_way(tmp_path: Path) -> None:
    loaded = load_case("llama", tmp_path)
    blocks = list(loaded.model.blocks)

    class OtherNorm:
        def __call__(self, x: Tensor) -> Tensor:
            return x

    assert isinstance(blocks[1], Block)
    norm, blocks[1].ffn_norm = blocks[1].ffn_norm, OtherNorm()
    assert fuse(loaded.model, loaded.cache, 2) is None
    blocks[1].ffn_norm = norm
    few = fuse(loaded.model, loaded.cache, 2)
    assert few is not None
    loaded.model.norm = OtherNorm()
    assert fuse(loaded.model, loaded.cache, 2) is None
