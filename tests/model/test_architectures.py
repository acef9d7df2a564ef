"""Every architecture gives the ids of transformers, from its folders and from GGUF files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.loading.load import LoadedModel
from llama_cpu.loading.memory_estimate import estimate_memory
from llama_cpu.model.architectures import ARCHITECTURES
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.linear import PREFILL_CHUNK
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import read_all
from tests.support.engine import TensorSource, greedy, load_tiny
from tests.support.families import random_model, save, save_gguf
from tests.support.reference import greedy_reference

PROMPT = [256, *b"The quick brown fox jumps over the lazy dog"]
LONG_PROMPT = [(7 * index + index // 11) % 320 for index in range(PREFILL_CHUNK + 45)]
CONTEXT = len(LONG_PROMPT) + 64
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
# Shapes that llama.cpp's GGUF files can say, and those that only config.json can.
EVERYWHERE: dict[str, dict[str, Any]] = {
    "mistral": {},
    "mistral, heads apart from dim": {"head_dim": 24, "tie_word_embeddings": True},
    "mistral, one key-value head": {"num_key_value_heads": 1, "num_hidden_layers": 2},
    "qwen2": {},
    "qwen2, tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "qwen2, yarn": {"rope_parameters": YARN},
    "qwen3": {},
    "qwen3, tied, heads apart from dim": {"tie_word_embeddings": True, "head_dim": 24},
    "qwen3, one key-value head": {"num_key_value_heads": 1},
    "smollm3": {"num_hidden_layers": 5},
    "smollm3, tied": {"num_hidden_layers": 8, "tie_word_embeddings": True},
}
UPPER_WINDOW: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": 16,
    "max_window_layers": 1,
}
IN_CONFIG_JSON: dict[str, dict[str, Any]] = {
    "mistral, window": {"sliding_window": 16},
    "mistral, window of one chunk": {"sliding_window": PREFILL_CHUNK, "num_key_value_heads": 4},
    "mistral, window of two tokens": {"sliding_window": 2},
    "qwen2, window": UPPER_WINDOW,
    "qwen2, window by layer": {
        **UPPER_WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3, window": UPPER_WINDOW,
    "smollm3, other layers without rotary": {"no_rope_layers": [0, 1, 0]},
    "smollm3, other interval": {"no_rope_layer_interval": 2},
    "smollm3, window": {
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 16,
    },
}


def model_of(case: str) -> Any:
    return random_model(case.split(",")[0], **(EVERYWHERE | IN_CONFIG_JSON)[case])


@pytest.mark.parametrize("case", [*EVERYWHERE, *IN_CONFIG_JSON])
def test_same_ids_from_hugging_face_folders(case: str, tmp_path: Path) -> None:
    model = model_of(case)
    loaded = load_tiny(save(model, tmp_path), max_seq_len=CONTEXT)
    for prompt in (PROMPT, LONG_PROMPT):
        assert greedy(loaded, prompt, 40) == greedy_reference(model, prompt, 40)


@pytest.mark.parametrize("case", EVERYWHERE)
def test_same_ids_from_gguf(case: str, tmp_path: Path) -> None:
    model = model_of(case)
    loaded = load_tiny(save_gguf(model, tmp_path / "m.gguf"), max_seq_len=CONTEXT)
    for prompt in (PROMPT, LONG_PROMPT):
        assert greedy(loaded, prompt, 40) == greedy_reference(model, prompt, 40)


def test_a_gguf_file_that_names_its_window(tmp_path: Path) -> None:
    """llama.cpp's converter leaves it out; the key is in the format's documentation."""
    model = random_model("mistral", sliding_window=16)
    path = save_gguf(model, tmp_path / "m.gguf", attention__sliding_window=16)
    loaded = load_tiny(path, max_seq_len=CONTEXT)
    assert greedy(loaded, PROMPT, 40) == greedy_reference(model, PROMPT, 40)


def test_a_window_of_one_token(tmp_path: Path) -> None:
    """Compared without transformers' cache, which keeps all tokens for this window."""
    model = random_model("mistral", sliding_window=1)
    loaded = load_tiny(save(model, tmp_path))
    with torch.inference_mode():
        exact = model(torch.tensor([PROMPT]), use_cache=False).logits[0]
    logits = loaded.model.forward(PROMPT, loaded.cache, all_logits=True)
    assert torch.allclose(logits, exact, atol=2e-4)


@pytest.mark.parametrize("key", ["llama", "qwen2", "qwen3"])
def test_transformers_reads_the_same_gguf_files(key: str, tmp_path: Path) -> None:
    """A second reader of the files that these tests write, for the architectures it knows."""
    changes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    if key == "qwen3":
        changes["head_dim"] = 128  # not read from GGUF by transformers
    model = random_model(key, **changes)
    # Without the vocabulary's tokens in the file, transformers wants their number.
    more = {} if key == "llama" else {"vocab_size": model.config.vocab_size}
    path = save_gguf(model, tmp_path / "m.gguf", **more)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    expected = greedy_reference(model, PROMPT, 24)
    assert greedy_reference(again.eval(), PROMPT, 24) == expected
    assert greedy(load_tiny(path), PROMPT, 24) == expected


FAMILIES = ["mistral, window", "qwen2, window", "qwen3, window", "smollm3, window"]


@pytest.mark.parametrize("case", FAMILIES)
def test_several_shards(case: str, tmp_path: Path) -> None:
    model = model_of(case)
    folder = save(model, tmp_path, shard_bytes=100_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert greedy(load_tiny(folder), PROMPT, 16) == greedy_reference(model, PROMPT, 16)


@pytest.mark.parametrize(("precision", "error"), [(BF16, 0.05), (INT8, 0.12)])
@pytest.mark.parametrize("case", FAMILIES)
def test_smaller_weights_give_close_logits(
    case: str, precision: WeightFormat, error: float, tmp_path: Path
) -> None:
    """LLaMA's logits of a random model of this size are off by 0.02 and 0.08."""
    model = model_of(case)
    loaded = load_tiny(save(model, tmp_path), precision=precision)
    logits = loaded.model.forward(PROMPT, loaded.cache, all_logits=True)
    with torch.inference_mode():
        exact = model(torch.tensor([PROMPT])).logits[0]
    assert float((logits - exact).norm() / exact.norm()) < error
    shapes = tensor_shapes(loaded.model.config)
    assert any(len(shape) == 1 for shape in shapes.values())
    estimate = estimate_memory(loaded.model.config, precision, 512, loaded.plan.products)
    assert loaded.weights_bytes == estimate.weights


def read_in_pieces(loaded: LoadedModel, ids: list[int], sizes: list[int]) -> Tensor:
    logits = []
    start = 0
    for size in sizes:
        piece = ids[start : start + size]
        logits.append(loaded.model.forward(piece, loaded.cache, all_logits=True))
        start += size
    assert start == len(ids)
    return torch.cat(logits)


@pytest.mark.parametrize("case", [*FAMILIES, "mistral, window of two tokens"])
def test_passes_of_any_size_give_the_same_logits(case: str, tmp_path: Path) -> None:
    """Chunks of a prompt, single tokens, and the few rows that speculative decoding checks."""
    loaded = load_tiny(save(model_of(case), tmp_path))
    ids = LONG_PROMPT[:100]
    whole = read_in_pieces(loaded, ids, [100])
    for sizes in ([1] * 100, [15, 1, 16, 1, 17, 50], [40, 4, 4, 4, 1, 4, 43]):
        loaded.cache.truncate(0)
        assert torch.allclose(read_in_pieces(loaded, ids, sizes), whole, atol=2e-4)


@pytest.mark.parametrize("case", FAMILIES)
def test_a_reused_cache_gives_what_a_fresh_one_gives(case: str, tmp_path: Path) -> None:
    folder = save(model_of(case), tmp_path)
    loaded = load_tiny(folder)
    greedy(loaded, PROMPT, 40)
    other = [*PROMPT[:30], *b" and then it slept"]
    assert loaded.cache.token_ids[:30] == other[:30]
    assert greedy(loaded, other, 40) == greedy(load_tiny(folder), other, 40)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_a_block_can_be_built_again_and_again(architecture: Any, tmp_path: Path) -> None:
    folder = save(random_model(architecture.key), tmp_path)
    loaded = load_tiny(folder)
    config = loaded.model.config
    source = TensorSource(read_all(folder))
    expected = greedy(loaded, PROMPT, 16)

    class OneAtATime:
        def __iter__(self):
            for layer in range(config.n_layers):
                yield architecture.build_block(config, layer, source)

    loaded.model.blocks = OneAtATime()
    loaded.cache.truncate(0)
    assert greedy(loaded, PROMPT, 16) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_the_architecture_is_known_by_its_files(architecture: Any, tmp_path: Path) -> None:
    model = random_model(architecture.key)
    assert open_checkpoint(save(model, tmp_path / "hf")).config.architecture == architecture.key
    path = save_gguf(model, tmp_path / "m.gguf")
    assert open_checkpoint(path).config.architecture == architecture.gguf_key
