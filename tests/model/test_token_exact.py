"""Greedy decoding in float32 gives the ids that transformers gives on the same weights."""

from pathlib import Path

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama_cpu.model.attention import RotaryPositions
from llama_cpu.model.config import ModelConfig, RopeScaling
from llama_cpu.model.norms import RMSNorm
from llama_cpu.model.transformer import Transformer, build_block
from llama_cpu.weights.float32_linear import Float32Linear
from llama_cpu.weights.linear import PREFILL_CHUNK
from tests.support.checkpoints import (
    random_weights,
    tiny_config,
    write_gguf,
    write_hugging_face,
    write_meta,
)
from tests.support.engine import TensorSource, greedy, load_tiny
from tests.support.reference import greedy_reference, reference_model

SHORT_ORIGINAL = RopeScaling(8.0, original_context=64)  # more of the frequencies are slow
CONFIGS = {
    "multi-head": tiny_config(),
    "grouped-query": tiny_config(n_kv_heads=2),
    "one key-value head": tiny_config(n_kv_heads=1),
    "tied output": tiny_config(tied_output=True, n_kv_heads=2),
    "odd head counts": tiny_config(dim=72, n_heads=9, n_kv_heads=3, head_dim=8),
    "head_dim apart from dim": tiny_config(head_dim=24),
    "rope_theta": tiny_config(rope_theta=500_000.0),
    "scaled rope": tiny_config(rope_scaling=RopeScaling(8.0)),
}
PROMPT = [256, *b"The quick brown fox jumps over the lazy dog"]
LONG_LENGTH = PREFILL_CHUNK + 45
CONTEXT = LONG_LENGTH + 64
LONG_PROMPT = [(7 * index + index // 11) % 320 for index in range(LONG_LENGTH)]


@pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT], ids=["short", "several chunks"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", ["meta", "hugging_face"])
def test_same_ids_as_transformers(
    layout: str, name: str, prompt: list[int], tmp_path: Path
) -> None:
    config = CONFIGS[name]
    weights = random_weights(config)
    write = write_meta if layout == "meta" else write_hugging_face
    loaded = load_tiny(write(tmp_path, config, weights), max_seq_len=CONTEXT)
    expected = greedy_reference(reference_model(config, weights), prompt, 48)
    assert greedy(loaded, prompt, 48) == expected


@pytest.mark.parametrize(
    ("config", "prompt"),
    [
        pytest.param(tiny_config(rope_linear_factor=4.0), PROMPT, id="linear"),
        pytest.param(
            tiny_config(rope_theta=1000.0, rope_scaling=SHORT_ORIGINAL),
            LONG_PROMPT,
            id="short original context",
        ),
    ],
)
def test_rope_scaling_that_only_config_json_can_say(
    config: ModelConfig, prompt: list[int], tmp_path: Path
) -> None:
    weights = random_weights(config)
    folder = write_hugging_face(tmp_path, config, weights)
    loaded = load_tiny(folder, max_seq_len=CONTEXT)
    expected = greedy_reference(reference_model(config, weights), prompt, 48)
    assert greedy(loaded, prompt, 48) == expected


def test_gguf_rope_factors(tmp_path: Path) -> None:
    """GGUF has Llama 3.1's scaling as a tensor of factors."""
    config = tiny_config(rope_scaling=SHORT_ORIGINAL)
    weights = random_weights(config)
    reference = reference_model(config, weights)
    plain = 1.0 / config.rope_theta ** (torch.arange(0, 16, 2).float() / 16)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](reference.config, device="cpu")
    factors = {"rope_freqs.weight": plain / scaled}
    loaded = load_tiny(write_gguf(tmp_path / "m.gguf", config, weights | factors))
    assert greedy(loaded, PROMPT, 48) == greedy_reference(reference, PROMPT, 48)


@pytest.mark.parametrize("n_shards", [1, 2, 4])
@pytest.mark.parametrize("embedding_dim", [0, 1])
def test_shards_are_joined_while_loading(n_shards: int, embedding_dim: int, tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    folder = write_meta(tmp_path, config, weights, n_shards, embedding_dim)
    expected = greedy_reference(reference_model(config, weights), PROMPT, 16)
    assert greedy(load_tiny(folder), PROMPT, 16) == expected


def test_merged_pth(tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    loaded = load_tiny(write_meta(tmp_path, config, weights, name="merged.pth"))
    expected = greedy_reference(reference_model(config, weights), PROMPT, 16)
    assert greedy(loaded, PROMPT, 16) == expected


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("n_files", [1, 3])
def test_hugging_face_files(suffix: str, n_files: int, tmp_path: Path) -> None:
    config = tiny_config(n_kv_heads=2)
    weights = random_weights(config)
    folder = write_hugging_face(tmp_path, config, weights, n_files, suffix)
    expected = greedy_reference(reference_model(config, weights), PROMPT, 16)
    assert greedy(load_tiny(folder), PROMPT, 16) == expected


def test_old_format_pth(tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    folder = write_meta(tmp_path, config, weights)
    path = folder / "consolidated.00.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match="cannot be mapped"):
        loaded = load_tiny(folder)
    expected = greedy_reference(reference_model(config, weights), PROMPT, 16)
    assert greedy(loaded, PROMPT, 16) == expected


def test_blocks_may_come_from_anywhere(tmp_path: Path) -> None:
    """The seam that models larger than memory need: blocks made when their turn comes."""
    config = tiny_config()
    weights = random_weights(config)
    loaded = load_tiny(write_meta(tmp_path, config, weights))
    expected = greedy(loaded, PROMPT, 16)

    class OneAtATime:
        def __iter__(self):
            for layer in range(config.n_layers):
                yield build_block(config, layer, TensorSource(weights))

    loaded.cache.reuse([])
    embeddings, norm = weights["tok_embeddings.weight"], weights["norm.weight"]
    output = Float32Linear(weights["output.weight"])
    streamed = Transformer(
        config,
        embeddings,
        OneAtATime(),
        RMSNorm(norm, config.norm_eps),
        output,
        RotaryPositions(config, 512),
        prefill_chunk=64,
    )
    object.__setattr__(loaded, "model", streamed)
    assert greedy(loaded, PROMPT, 16) == expected
