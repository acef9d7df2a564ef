"""params.json, config.json, generation_config.json and folders."""

import json
import os
from pathlib import Path

import pytest

GARBAGE = {
    "empty": b"",
    "not JSON": b"{",
    "not an object": b"[1, 2]",
    "deeply nested": b"[" * 100_000,
    "not UTF-8": b'{"dim": "\xff\xfe"}',
    "binary": bytes(range(256)) * 8,
    "a number of many digits": b'{"dim": ' + b"9" * 10_000 + b"}",
}
# What no field that holds a number may be.
ABSURD = [-1, 0, 10**12, 10**400, float("nan"), float("inf"), True, "32", [32], {"value": 32}, 1.5]


def test_the_good_models_are_good(model, answers) -> None:
    for name in ("meta", "shards", "hugging_face", "bin", "indexed", "gpt2", "llama"):
        answers(model(name))


def test_no_such_folder(tmp_path: Path, refused) -> None:
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")


def test_empty_folder(tmp_path: Path, refused) -> None:
    assert str(tmp_path) in refused(tmp_path)


def test_a_name_that_is_too_long(tmp_path: Path, refused) -> None:
    refused(tmp_path / ("x" * 300))


def test_a_path_through_a_file(tmp_path: Path, refused) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file" / "model")


def test_a_loop_of_symbolic_links(tmp_path: Path, refused) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path / "a")
    refused(tmp_path / "a" / "model")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth", "tokenizer.model"])
def test_a_file_that_may_not_be_read(name: str, model, refused) -> None:
    folder = model("meta")
    (folder / name).chmod(0)
    assert name in refused(folder)


@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth", "tokenizer.model"])
def test_a_folder_where_a_file_belongs(name: str, model, refused) -> None:
    folder = model("meta")
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth"])
def test_a_pipe_where_a_file_belongs(name: str, model, refused) -> None:
    folder = model("meta")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert name in refused(folder)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_a_file_without_end(model, refused) -> None:
    folder = model("meta")
    (folder / "params.json").unlink()
    (folder / "params.json").symlink_to("/dev/zero")
    assert "params.json" in refused(folder)


def test_params_json_missing(model, refused) -> None:
    folder = model("meta")
    (folder / "params.json").unlink()
    assert "params.json" in refused(folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("meta", "params.json"),
        ("hugging_face", "config.json"),
        ("hugging_face", "generation_config.json"),
        ("hugging_face", "tokenizer_config.json"),
        ("indexed", "model.safetensors.index.json"),
    ],
)
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_not_json(garbage: bytes, name: str, file: str, model, refused) -> None:
    folder = model(name)
    (folder / file).write_bytes(garbage)
    assert file in refused(folder)


def test_byte_order_mark_is_let_through(model, answers) -> None:
    folder = model("meta")
    params = (folder / "params.json").read_text()
    (folder / "params.json").write_text(params, encoding="utf-8-sig")
    answers(folder)


@pytest.mark.parametrize("field", ["dim", "n_layers", "n_heads", "norm_eps"])
def test_params_json_without_a_field(field: str, model, refused) -> None:
    folder = model("meta")
    change_json(folder / "params.json", {field: None})
    message = refused(folder)
    assert field in message and "params.json" in message


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("field", ["dim", "n_layers", "n_heads", "n_kv_heads"])
def test_params_json_with_an_absurd_size(field: str, value, model, refused) -> None:
    folder = model("meta")
    change_json(folder / "params.json", {field: value})
    message = refused(folder)
    assert field in message and "params.json" in message


@pytest.mark.parametrize("value", [-1, 10**400, float("nan"), float("inf"), True, "1e-5", [1]])
@pytest.mark.parametrize("field", ["norm_eps", "rope_theta"])
def test_params_json_with_an_absurd_number(field: str, value, model, refused) -> None:
    folder = model("meta")
    change_json(folder / "params.json", {field: value})
    message = refused(folder)
    assert field in message and "params.json" in message


@pytest.mark.parametrize(
    "changes",
    [{"dim": 64}, {"n_layers": 3}, {"n_layers": 10_000}, {"n_heads": 4, "n_kv_heads": 3}],
    ids=str,
)
def test_params_json_of_another_model(changes: dict, model, refused) -> None:
    folder = model("meta")
    change_json(folder / "params.json", changes)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mamba"},
        {"model_type": ["llama"]},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"hidden_size": "32"},
        {"num_hidden_layers": 1 << 40},
        {"vocab_size": -1},
        {"rope_scaling": {"rope_type": "yarn"}},
        {"rope_scaling": "linear"},
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        },
        {"tie_word_embeddings": "yes"},
    ],
    ids=str,
)
def test_config_json_of_what_cannot_be_run(changes: dict, model, refused) -> None:
    folder = model("hugging_face")
    change_json(folder / "config.json", changes)
    assert "config.json" in refused(folder)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [-1, 10**400, float("nan"), True, "hot", [1]], ids=str)
def test_generation_config_is_blamed_and_not_the_user(name: str, value, model, refused) -> None:
    folder = model("hugging_face")
    (folder / "generation_config.json").write_text(json.dumps({name: value}))
    message = refused(folder)
    assert f"'{name}'" in message and "generation_config.json" in message
    assert f"--{name}" not in message


def test_an_option_goes_before_generation_config(model, answers) -> None:
    folder = model("hugging_face")
    (folder / "generation_config.json").write_text('{"temperature": -1}')
    answers(folder, "--temperature", "0.5")


@pytest.mark.parametrize("ids", ["x", {}, [None, -1, 10**30, "2"], True])
def test_odd_end_tokens_are_let_through(ids, model, answers) -> None:
    folder = model("hugging_face")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    answers(folder)


def change_json(path: Path, changes: dict) -> None:
    """Set the fields; None takes one away."""
    values = json.loads(path.read_text()) | changes
    kept = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(kept))
