"""The real program in a real terminal, killed while it answers: what is lost, and what is not."""

import random
import re
import sqlite3
import time
from pathlib import Path

import pytest

from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.history.store import History
from tests.support.terminal import Terminal

pytest.importorskip("pty", reason="Windows has other terminals")

KILLS = 5
LOST_SECONDS = 1.0
FIGURES = re.compile(r"reused (\d+)\+(\d+).*?ctx (\d+)/")
CONTINUE, QUIT = "\x07", "\x11"  # Ctrl+G, Ctrl+Q


def tokens_shown(terminal: Terminal, until: float) -> int:
    """How many tokens of the answer the screen counted at a moment, at the least."""
    figures = FIGURES.findall(terminal.text(until))
    if not figures:
        return 0
    reused, computed, context = map(int, figures[-1])
    return max(0, context - reused - computed)


def check(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def latest(path: Path) -> list[StoredMessage]:
    with History(path) as history:
        conversation = history.latest()
        assert conversation is not None
        return history.path(conversation.id)


def test_killed_at_random_moments(demo_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    options = ["--history", str(path), "--ckpt_dir", str(demo_model)]
    chance = random.Random(20)
    asked: list[str] = []  # in the conversation
    line: list[StoredMessage] = []
    cut = answered = 0
    for number in range(KILLS):
        kind = ("new", "further", "continued")[number % 3]
        if kind == "continued" and line[-1].state is not State.CUT:
            kind = "further"
        words = [*options, "--seed", str(number), *["--continue"] * (kind != "new")]
        before = line[-1] if kind == "continued" else None
        with Terminal("example_chat.py", *words) as terminal:
            terminal.wait_for("template")  # the model is loaded
            if before:
                terminal.wait_for("Ctrl+G continues")
                terminal.type(CONTINUE)
            else:
                asked = [*asked * (kind != "new"), f"Write a very long story, number {number}."]
                terminal.type(asked[-1] + "\r")
            terminal.wait_for("reading the prompt")
            time.sleep(chance.uniform(0, 3))
            killed = terminal.kill()

        check(path)
        line = latest(path)
        assert [message.text for message in line if message.role == "user"] == asked
        had = len(before.token_ids) if before else 0
        if before:
            assert line[-1].id == before.id and line[-1].text.startswith(before.text[:-1])
        shown = tokens_shown(terminal, killed - LOST_SECONDS)
        kept = len(line[-1].token_ids) - had if line[-1].role == "assistant" else 0
        # An end token is counted on the screen and is none of the answer's ids.
        assert kept >= shown - 1
        answered += bool(shown)
        cut += line[-1].state is State.CUT
        print(f"{number} {kind}: {shown} tokens shown, {kept} kept, {line[-1].state.value}")
    assert answered and cut

    with Terminal("example_chat.py", *options, "--continue") as terminal:
        terminal.wait_for("template")
        terminal.type(QUIT)
        assert terminal.wait() == 0
    assert latest(path) == line
    assert [each.name for each in tmp_path.iterdir()] == ["history.db"]


def test_without_history_nothing_is_kept(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    options = ["--no_history", "--ckpt_dir", str(demo_model), "--max_gen_len", "5"]
    options += ["--temperature", "0"]
    with Terminal("example_chat.py", *options) as terminal:
        terminal.wait_for("template")
        terminal.type("Hello!\r")
        terminal.wait_for("its maximum length")
        terminal.type(QUIT)
        assert terminal.wait() == 0
    assert list(tmp_path.iterdir()) == []
