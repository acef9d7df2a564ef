"""What is said of the model."""

from pathlib import Path

import pytest

from llama_cpu.system.paths import model_folder
from llama_cpu.tui import about
from tests.tui.driving import NARROW, chat, conversation, screen_text
from tests.tui.fakes import FakeSession


@pytest.mark.parametrize(
    ("name", "is_guess", "shown"),
    [
        ("own", False, "own template"),
        ("chatml", False, "chatml template"),
        ("transcript", True, "transcript template (a guess; --template)"),
    ],
)
async def test_title_line(name: str, is_guess: bool, shown: str) -> None:
    session = FakeSession(template_name=name, template_guessed=is_guess)
    async with chat(session, NARROW) as pilot:
        first_line = screen_text(pilot).splitlines()[0].strip()
        assert first_line == f"Test model · float32 · {shown} · 2 threads"


async def test_the_demo_notice_says_where_whatever_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(about, "model_folder", lambda: tmp_path / "llama" / "model")
    monkeypatch.setattr(about, "tokenizer_folder", lambda: tmp_path.parent / "tokenizer")
    async with chat(FakeSession(), is_demo=True) as pilot:
        _, first, second = conversation(pilot)[0].splitlines()
        model, tokenizer = str(Path("~/llama/model")), str(tmp_path.parent / "tokenizer")
        assert first.split() == [model, "params.json", "and", "consolidated.*.pth"]
        assert second.split() == [tokenizer, "tokenizer.model"]
        assert first.index("params.json") == second.index("tokenizer.model")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert str(model_folder()) in about.demo_notice()
