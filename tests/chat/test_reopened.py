"""The real program in a real terminal: a conversation that is opened again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import ROOT, Terminal

pytest.importorskip("pty", reason="Windows has other terminals")

QUIT = "\x11"
REUSED = re.compile(r"reused (\d+)\+(\d+)")
STORY = "Once upon a time there was a small computer that wanted to be understood. " * 12


@pytest.fixture
def cache(demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept KV caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llama_cpu" / "kv"


def test_in_the_app(demo_model: Path, tmp_path: Path, cache: Path) -> None:
    options = ["--history", str(tmp_path / "history.db"), "--ckpt_dir", str(demo_model)]
    options += ["--max_gen_len", "4", "--seed", "1"]
    with Terminal("example_chat.py", *options) as terminal:
        terminal.wait_for("palette")
        terminal.type(STORY + "\r")
        terminal.wait_for("its maximum length")
        terminal.type(QUIT)
        assert terminal.wait() == 0
    (path,) = cache.iterdir()
    with Terminal("example_chat.py", *options, "--continue") as terminal:
        terminal.wait_for("template")  # the model is loaded
        terminal.type("And then?\r")
        terminal.wait_for("reused ")
        reused, computed = map(int, REUSED.findall(terminal.text())[-1])
        terminal.type(QUIT)
        assert terminal.wait() == 0
    assert reused > 150 and computed < 40
    assert [each.name for each in cache.iterdir()] == [path.name]


def test_in_a_pipe(demo_model: Path, tmp_path: Path, cache: Path) -> None:
    def chat(line: str, *options: str) -> str:
        words = ["--ckpt_dir", str(demo_model), "--max_gen_len", "8", "--temperature", "0"]
        if "--no_history" not in options:
            words += ["--history", str(tmp_path / "history.db")]
        done = subprocess.run(
            [sys.executable, "example_chat.py", *words, *options],
            input=line,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        return done.stdout

    chat(STORY)
    (path,) = cache.iterdir()
    first = path.stat()
    assert chat("And then?", "--continue")
    assert path.stat().st_size > first.st_size
    assert chat("And then?", "--continue", "--kv_files_mib", "0")
    assert list(cache.iterdir()) == []
    chat(STORY, "--no_history")
    assert list(cache.iterdir()) == []
