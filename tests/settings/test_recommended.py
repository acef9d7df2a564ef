"""The sampling of a model: from its files, else as is known to suit its family."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from llama_cpu.chat.open_session import sampling_from
from llama_cpu.checkpoint.gguf_sampling import sampling_in_gguf
from llama_cpu.cli.main import command_parser
from llama_cpu.errors import UserError
from llama_cpu.generation.sampling import Sampling
from llama_cpu.loading.plan import plan_loading
from llama_cpu.settings.recommended import RECOMMENDED, recommended
from tests.support.checkpoints import random_weights, tiny_config, write_gguf
from tests.support.vocabularies import gguf_vocabulary

OWN = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20}
CONFIG = tiny_config()
WEIGHTS = random_weights(CONFIG)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", {"temperature": 0.0, "repetition_penalty": 1.03}),
        ("SmolLM2-1.7B-Instruct-Q4_K_M", {"temperature": 0.2, "top_p": 0.9}),
        ("SmolLM3-3B", {"temperature": 0.6, "top_p": 0.95}),
        ("Qwen3-4B-Instruct-2507-Q8_0", {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
        ("qwen3-0.6b", {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ("Meta-Llama-3.1-8B-Instruct", {"temperature": 0.6, "top_p": 0.9}),
        ("llama-2-7b-chat", {"temperature": 0.6, "top_p": 0.9}),
        ("llama-2-7b", {}),  # it was not trained to chat
        ("Qwen2.5-7B", {}),
        ("", {}),
    ],
)
def test_a_family_is_known_by_its_name(name: str, values: dict[str, float]) -> None:
    assert recommended(name) == values


def test_small_models_of_a_family_may_differ() -> None:
    assert recommended("qwen2.5-0.5b-instruct-q8_0")["repetition_penalty"] == 1.1
    assert recommended("Qwen2.5 7B Instruct")["repetition_penalty"] == 1.05


@pytest.mark.parametrize("row", RECOMMENDED, ids=lambda row: row.pattern)
def test_every_row_is_valid_and_has_a_source(row: Any) -> None:
    Sampling(**row.values)
    assert row.source and re.compile(row.pattern)


@pytest.mark.parametrize(
    ("metadata", "values"),
    [
        ({}, {}),
        (OWN, {"temperature": 0.6, "top_k": 20}),
        ({"general.sampling.temp": 0.6000000238418579}, {"temperature": 0.6}),
        (
            {"general.sampling.top_k": -1, "general.sampling.temp": -1.0},
            {"top_k": 0, "temperature": 0},
        ),
        ({"general.sampling.penalty_repeat": 1.1}, {"repetition_penalty": 1.1}),
        ({"general.sampling.mirostat": 2}, {}),
    ],
)
def test_the_keys_of_gguf(metadata: dict[str, Any], values: dict[str, Any]) -> None:
    assert sampling_in_gguf(metadata) == values


def sampling(path: Path, *options: str) -> Sampling:
    args = command_parser("chat", "x").parse_args(list(options))
    return sampling_from(plan_loading(path), args)


def model(path: Path, **metadata: Any) -> Path:
    vocabulary = {**gguf_vocabulary("gpt2"), **metadata}
    return write_gguf(path, CONFIG, WEIGHTS, vocabulary=vocabulary)


def test_the_files_of_a_model_come_first(tmp_path: Path) -> None:
    path = model(tmp_path / "SmolLM3-3B.gguf", **OWN)
    own = sampling(path)
    assert (own.temperature, own.top_k) == (0.6, 20)
    assert sampling(path, "--temperature", "0.3").temperature == 0.3
    unknown = sampling(model(tmp_path / "unknown.gguf"))
    assert (unknown.temperature, unknown.top_p) == (0.8, 0.95)
    renamed = model(tmp_path / "sha256-0123.gguf", **{"general.name": "Mistral Nemo Instruct"})
    assert sampling(renamed).temperature == 0.3


def test_a_wrong_value_is_blamed_on_the_file(tmp_path: Path) -> None:
    path = model(tmp_path / "m.gguf", **{"general.sampling.top_p": math.nan})
    with pytest.raises(UserError, match=r"m\.gguf: 'top_p' is nan"):
        sampling(path)
    assert sampling(path, "--top_p", "0.5").top_p == 0.5


def test_the_demo_model_is_greedy(demo_model: Path) -> None:
    assert sampling(demo_model).temperature == 0.0
    assert sampling(demo_model, "--temperature", "0.8").temperature == 0.8
