"""What is said of the model."""

import pytest

from llama_cpu.tui import about
from tests.tui.driving import NARROW, ask_and_wait, chat, conversation, screen_text
from tests.tui.fakes import FakeSession, script


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


async def test_the_demo_notice_is_one_line_until_something_is_sent() -> None:
    session = FakeSession([script("Paris.")])
    async with chat(session, NARROW, is_demo=True) as pilot:
        notice = about.demo_notice({})
        assert conversation(pilot) == [notice] and notice in screen_text(pilot)
        await ask_and_wait(pilot, "Hi")
        assert conversation(pilot) == ["You\nHi", "Paris."]
    async with chat(session, NARROW, is_demo=True) as pilot:  # opened with its messages
        assert conversation(pilot) == ["You\nHi", "Paris."]


def test_the_notice_names_the_users_key() -> None:
    assert "F3" in about.demo_notice({}) and "llama_cpu pull" in about.demo_notice({})
    assert "F9" in about.demo_notice({"models": "f9"})
