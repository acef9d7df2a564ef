"""What can only be seen from outside: pipes, signals, and what reaches the terminal."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_cpu.cli.main import chat_main, complete_main
from tests.bad_input.conftest import CONFIG
from tests.support.checkpoints import random_weights, write_meta
from tests.support.vocabularies import sentencepiece_model

ROOT = Path(__file__).parents[2]
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")


def start(script: str, *words: str, **settings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *words],
        stdin=settings.pop("stdin", subprocess.DEVNULL),
        stdout=settings.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"} | settings.pop("env", {}),
        **settings,
    )


@pytest.fixture
def escaping_model(tmp_path: Path) -> Path:
    """A model that writes nothing but escape characters, for ever."""
    weights = random_weights(CONFIG)
    folder = write_meta(tmp_path / "escaping", CONFIG, weights)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    escape = 3 + 0x1B  # after <unk>, <s> and </s> come the 256 bytes
    weights["tok_embeddings.weight"][:] = 1.0
    weights["norm.weight"][:] = 1.0
    weights["output.weight"][:] = 0.0
    weights["output.weight"][escape] = 1.0
    for name, tensor in weights.items():
        if name.startswith("layers.") and "norm" not in name:
            tensor.zero_()
    torch.save(weights, folder / "consolidated.00.pth")
    return folder


def test_escape_sequences_of_a_model_are_text(escaping_model: Path, capsys) -> None:
    options = ["--ckpt_dir", str(escaping_model), "--temperature", "0", "--max_gen_len", "4"]
    assert complete_main(["the", *options]) == 0
    assert capsys.readouterr().out == "␛␛␛␛\n"
    assert complete_main(["the", "--chat", *options]) == 0
    assert capsys.readouterr().out == "␛␛␛␛\n"


def test_escape_sequences_of_a_model_are_text_in_a_piped_chat(
    escaping_model: Path, capsys, monkeypatch
) -> None:
    options = ["--ckpt_dir", str(escaping_model), "--temperature", "0", "--max_gen_len", "4"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    assert chat_main(options) == 0
    assert capsys.readouterr().out == "␛␛␛␛\n"


def test_output_that_cannot_show_a_character(escaping_model: Path) -> None:
    process = start(
        "example_cpu.py", "the", "--ckpt_dir", str(escaping_model), "--temperature", "0",
        "--max_gen_len", "4", env={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert out == b"????\n"


def test_no_traceback_but_with_debug(tmp_path: Path) -> None:
    process = start("example_cpu.py", "the", "--ckpt_dir", str(tmp_path / "nowhere"))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.startswith(b"Error: ") and error.count(b"\n") == 1
    process = start("example_chat.py", "--debug", "--ckpt_dir", str(tmp_path / "nowhere"))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert b"Traceback" in error


@posix_only
@pytest.mark.parametrize("script", ["example_cpu.py", "example_chat.py"])
def test_a_reader_that_goes_away(script: str, escaping_model: Path) -> None:
    """As with `| head -1`: quiet, no traceback."""
    read_end, write_end = os.pipe()
    words = ["--ckpt_dir", str(escaping_model), "--temperature", "0"]
    words = ["the", *words] if script == "example_cpu.py" else words
    process = start(script, *words, stdout=write_end, stdin=subprocess.PIPE)
    os.close(write_end)
    os.close(read_end)
    _, error = process.communicate(b"hi\nhi\n", timeout=120)
    assert process.returncode == 0, error
    assert b"rror" not in error and b"Traceback" not in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(escaping_model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("example_cpu.py", "the", "--ckpt_dir", str(escaping_model), stdout=full)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.startswith(b"Error: ") and error.count(b"\n") == 1


@posix_only
@pytest.mark.parametrize("script", ["example_cpu.py", "example_chat.py"])
def test_interrupted_while_answering(script: str, escaping_model: Path) -> None:
    """What was written is kept; the exit code is the one that a shell has for Ctrl+C."""
    config = json.loads((escaping_model / "params.json").read_text()) | {"max_seq_len": 1 << 20}
    (escaping_model / "params.json").write_text(json.dumps(config))
    words = ["--ckpt_dir", str(escaping_model), "--temperature", "0", "--max_gen_len", str(1 << 20)]
    words += ["--max_seq_len", str(1 << 20), "--threads", "1"]
    words = ["the", *words] if script == "example_cpu.py" else words
    process = start(script, *words, stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"hi\n")
    process.stdin.flush()
    assert process.stdout.read(3) == "␛".encode()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert b"Traceback" not in error


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "place",
    [
        "llama_cpu.checkpoint.meta.open_meta",
        "llama_cpu.tokenization.sentencepiece.SentencePieceTokenizer.__init__",
        "llama_cpu.loading.load._kv_cache",
    ],
)
@pytest.mark.parametrize("command", [chat_main, complete_main])
def test_interrupted_while_loading(place, command, escaping_model, capsys, monkeypatch) -> None:
    monkeypatch.setattr(place, interrupt)
    prompt = ["the"] if command is complete_main else []
    assert command([*prompt, "--ckpt_dir", str(escaping_model)]) == 130
    assert capsys.readouterr().err == "Stopped.\n"
