"""Small good models, to be broken by the tests, and a way to see what the program says to them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cpu.cli.main import complete_main
from tests.support.checkpoints import (
    random_weights,
    tiny_config,
    write_gguf,
    write_hugging_face,
    write_meta,
)
from tests.support.vocabularies import gguf_vocabulary, sentencepiece_model, write_tokenizer_json

CONFIG = tiny_config(dim=32, n_layers=2, n_heads=4, n_kv_heads=4, hidden_dim=32, context_length=256)

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Refused:
    """Completes a prompt with the model at ``path``; returns the one sentence that it ends with."""

    def run(path: Path, *options: str, prompt: str = "the") -> str:
        code = complete_main([prompt, "--ckpt_dir", str(path), *options])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert captured.out.strip() == ""
        lines = [line for line in captured.err.splitlines() if not line.startswith("Note: ")]
        assert len(lines) == 1 and lines[0].startswith("Error: "), captured.err
        assert len(lines[0]) < 700
        return lines[0]

    return run


@pytest.fixture
def answers(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Completes a prompt with the model at ``path``; returns the answer."""

    def run(path: Path, *options: str, prompt: str = "the") -> str:
        arguments = [prompt, "--ckpt_dir", str(path), "--max_gen_len", "3", "--json", *options]
        code = complete_main(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)["text"]

    return run


@pytest.fixture(scope="session")
def good_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    weights = random_weights(CONFIG)
    for name, n_shards in (("meta", 1), ("shards", 4)):
        write_meta(folder / name, CONFIG, weights, n_shards)
        (folder / name / "tokenizer.model").write_bytes(sentencepiece_model())
    for name, suffix in (("hugging_face", "safetensors"), ("bin", "bin")):
        write_hugging_face(folder / name, CONFIG, weights, suffix=suffix)
        write_tokenizer_json(folder / name)
    write_hugging_face(folder / "indexed", CONFIG, weights, n_files=2)
    write_tokenizer_json(folder / "indexed")
    for kind in ("gpt2", "llama"):
        (folder / kind).mkdir()
        write_gguf(folder / kind / "m.gguf", CONFIG, weights, vocabulary=gguf_vocabulary(kind))
    return folder


@pytest.fixture
def model(good_models: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the good models: "meta", "shards", "hugging_face", "bin", "indexed", or
    the GGUF files "gpt2" and "llama"."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good_models / name, tmp_path / name))

    return copy
