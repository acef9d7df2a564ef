"""config.json and GGUF metadata of every architecture: what is mapped, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.errors import UserError
from llama_cpu.model.architectures import ARCHITECTURES
from llama_cpu.model.config import ModelConfig, YarnScaling
from tests.support.families import random_model, save, save_gguf

KEYS = [architecture.key for architecture in ARCHITECTURES]
FULL, SLIDING = "full_attention", "sliding_attention"

Configured = Callable[..., ModelConfig]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each architecture, with three layers."""
    base = tmp_path_factory.mktemp("families")
    for key in KEYS:
        save(random_model(key), base / key)
    return base


@pytest.fixture
def configured(folders: Path, tmp_path: Path) -> Configured:
    """Opens an architecture's folder with other values in config.json; "absent" takes one away."""

    def run(key: str, **changes: Any) -> ModelConfig:
        shutil.copytree(folders / key, tmp_path / key, dirs_exist_ok=True)
        file = tmp_path / key / "config.json"
        values = json.loads((folders / key / "config.json").read_text()) | changes
        kept = {name: value for name, value in values.items() if value != "absent"}
        file.write_text(json.dumps(kept))
        return open_checkpoint(tmp_path / key).config

    return run


@pytest.mark.parametrize("key", KEYS)
def test_as_transformers_writes_it(key: str, configured: Configured) -> None:
    config = configured(key)
    assert config.architecture == key
    assert config.sliding_window is None
    assert not config.tied_output
    assert config.unrotated_layers == ()  # of three layers; a fourth would have none


def test_sliding_window_of_mistral(configured: Configured) -> None:
    assert configured("mistral", sliding_window=8).sliding_layers == (0, 1, 2)
    assert configured("mistral", sliding_window=8).sliding_window == 8
    assert configured("mistral", sliding_window=None).sliding_window is None
    assert configured("mistral", sliding_window="absent").sliding_window == 4096


@pytest.mark.parametrize("key", ["qwen2", "qwen3"])
def test_sliding_window_of_qwen(key: str, configured: Configured) -> None:
    off = {"sliding_window": 8, "max_window_layers": 1, "layer_types": "absent"}
    on = off | {"use_sliding_window": True}
    assert configured(key, **off).sliding_window is None
    assert configured(key, **on).sliding_layers == (1, 2)
    assert configured(key, **on | {"max_window_layers": 3}).sliding_window is None
    assert configured(key, **on | {"sliding_window": None}).sliding_window is None
    by_layer = configured(key, **on | {"layer_types": [SLIDING, FULL, FULL]})
    assert by_layer.sliding_layers == (0,)


def test_layers_without_rotary(configured: Configured) -> None:
    default = {"no_rope_layers": "absent", "no_rope_layer_interval": "absent"}
    assert configured("smollm3", **default).unrotated_layers == ()
    every_second = default | {"no_rope_layer_interval": 2}
    assert configured("smollm3", **every_second).unrotated_layers == (1,)
    assert configured("smollm3", no_rope_layers=[0, 1, 0, 1]).unrotated_layers == (0, 2)


def test_defaults_that_differ_between_architectures(configured: Configured) -> None:
    """A field that transformers left out, as it is the class's default."""
    with pytest.raises(UserError, match="512 x 64"):  # 4 heads that are 128 wide
        configured("qwen3", head_dim="absent")
    assert not configured("qwen2", tie_word_embeddings="absent").tied_output
    assert configured("smollm3", tie_word_embeddings="absent").tied_output
    assert not configured("mistral", tie_word_embeddings="absent").tied_output


def test_yarn(configured: Configured) -> None:
    old = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    config = configured("qwen2", rope_parameters="absent", rope_theta=1e6, rope_scaling=old)
    assert config.rope_scaling == YarnScaling(4.0, 512)
    assert config.rope_theta == 1e6
    assert config.context_length == 2048


@pytest.mark.parametrize("model_type", ["gemma", "qwen2_moe", None, ["llama"], {"llama": 1}, 5])
def test_other_architectures(model_type: Any, configured: Configured) -> None:
    with pytest.raises(UserError) as refused:
        configured("llama", model_type=model_type)
    message = str(refused.value)
    assert "config.json" in message
    assert all(key in message for key in KEYS)


HUGE = [FULL] * 100_000
REFUSED = [
    ("llama", {"attention_bias": True}, "attention_bias"),
    ("qwen3", {"attention_bias": True}, "attention_bias"),
    ("smollm3", {"mlp_bias": True}, "mlp_bias"),
    ("qwen2", {"hidden_act": "gelu"}, "silu"),
    ("qwen2", {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ("qwen2", {"quantization_config": 5}, "quantized"),
    ("qwen2", {"layer_types": "full_attention"}, "layer_types"),
    ("qwen2", {"layer_types": {}}, "layer_types"),
    ("qwen2", {"layer_types": []}, "layer_types"),
    ("qwen2", {"layer_types": HUGE}, "layer_types"),
    ("qwen2", {"layer_types": [FULL, FULL, "chunked_attention"]}, "chunked_attention"),
    ("qwen2", {"layer_types": [FULL, FULL, [FULL]]}, "layer_types"),
    ("qwen2", {"layer_types": [FULL, FULL, "x" * 1000]}, "layer_types"),
    ("qwen2", {"layer_types": [FULL, FULL, SLIDING]}, "window"),
    ("qwen3", {"use_sliding_window": "yes"}, "use_sliding_window"),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 0}, "sliding_window"),
    ("qwen3", {"max_window_layers": -1}, "max_window_layers"),
    ("qwen3", {"head_dim": 15}, "15"),
    ("mistral", {"sliding_window": -1}, "sliding_window"),
    ("mistral", {"sliding_window": 1 << 60}, "sliding_window"),
    ("mistral", {"sliding_window": True}, "sliding_window"),
    ("mistral", {"sliding_window": 8, "layer_types": [FULL, SLIDING, FULL]}, "some layers"),
    ("smollm3", {"no_rope_layers": "1"}, "no_rope_layers"),
    ("smollm3", {"no_rope_layers": [1, 1]}, "no_rope_layers"),
    ("smollm3", {"no_rope_layers": [1, 1, 2]}, "no_rope_layers"),
    ("smollm3", {"no_rope_layers": [1, 1, [0]]}, "no_rope_layers"),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval"),
    ("qwen2", {"rope_parameters": {"rope_type": "mrope"}}, "'linear', 'llama3' and 'yarn'"),
    ("qwen2", {"rope_parameters": {"rope_type": ["yarn"]}}, "'linear', 'llama3' and 'yarn'"),
    ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": -1}}, "factor"),
    ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4, "mscale": 1}}, "mscale"),
    ("qwen2", {"rope_parameters": [1]}, "rope_parameters"),
    ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("qwen2", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
]


@pytest.mark.parametrize(("key", "changes", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_refused(key: str, changes: dict, words: str, configured: Configured) -> None:
    with pytest.raises(UserError) as refused:
        configured(key, **changes)
    message = str(refused.value)
    assert words in message and "config.json" in message
    assert len(message) < 500


@pytest.mark.parametrize("key", ["mistral", "qwen2", "qwen3", "smollm3"])
def test_weights_of_another_architecture(key: str, configured: Configured) -> None:
    """Qwen2 lacks norms and has biases, Qwen3 the other way round; the others have neither."""
    for other in {"qwen2", "qwen3"} - {key}:
        with pytest.raises(UserError, match=r"\.([qkvw]+(_proj)?\.bias|[qk]_norm\.weight)'"):
            configured(other, model_type=key)


GGUF_REFUSED = [
    ("qwen2", {"expert_count": 8}, "mixture of experts"),
    ("qwen3", {"attention__sliding_window": 8, "attention__sliding_window_pattern": 2}, "window"),
    ("mistral", {"rope__dimension_count": 8}, "8 of 16"),
    ("qwen2", {"rope__scaling__yarn_log_multiplier": 1}, "yarn_log_multiplier"),
]


@pytest.mark.parametrize(("key", "changes", "words"), GGUF_REFUSED, ids=str)
def test_what_is_refused_in_gguf(key: str, changes: dict, words: str, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    yarn["original_max_position_embeddings"] = 512
    more = {"rope_parameters": yarn} if "yarn" in words else {}
    path = save_gguf(random_model(key, **more), tmp_path / "m.gguf", **changes)
    with pytest.raises(UserError) as refused:
        open_checkpoint(path)
    assert words in str(refused.value) and "m.gguf" in str(refused.value)


def test_a_gguf_file_of_another_architecture(tmp_path: Path, monkeypatch) -> None:
    import gguf

    monkeypatch.setitem(gguf.MODEL_ARCH_NAMES, gguf.MODEL_ARCH.QWEN2, "gemma3")
    path = save_gguf(random_model("qwen2"), tmp_path / "m.gguf")
    with pytest.raises(UserError) as refused:
        open_checkpoint(path)
    message = str(refused.value)
    assert "'gemma3'" in message and "qwen3" in message and "smollm3" in message
