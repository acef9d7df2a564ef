"""The model's thinking, folded and shown."""

import threading
from pathlib import Path

import pytest

from llama_cpu.generation.events import Finished, Prefill, StopReason, Token
from tests.tui.driving import (
    NARROW,
    ask,
    chat,
    conversation,
    is_answering,
    note,
    text_of,
    until,
)
from tests.tui.fakes import FakeMessage, FakeSession, Step, script, tokens

THOUGHT = "<think>\nA man, so he is mortal.\n</think>\n\nYes, **mortal**."
FOLDED = "▸ Thought for 6 words\n\nYes, mortal."


def letters(text: str) -> list[Step]:
    """Each letter is a token, so that the tags come in parts."""
    return [Token(number, letter, 0.01) for number, letter in enumerate(text)]


def shown(text: str) -> str:
    return text.replace("\n\n", "\n")


def answered(text: str) -> FakeSession:
    return FakeSession(earlier=[FakeMessage("user", "a"), FakeMessage("assistant", text)])


async def test_it_is_folded_while_it_is_streamed_and_when_it_is_stored() -> None:
    wait, wait_again = threading.Event(), threading.Event()
    opening, rest = letters(THOUGHT[:18]), letters(THOUGHT[18:])
    session = FakeSession(
        [[Prefill(0, 1, 1, 0.1), *opening, wait, *rest, wait_again, Finished(StopReason.END)]]
    )
    async with chat(session) as pilot:
        await ask(pilot, "Is he?")
        await until(pilot, lambda: conversation(pilot)[1] == "▸ Thinking… 3 words")
        wait.set()
        await until(pilot, lambda: shown(conversation(pilot)[1]) == shown(FOLDED))
        wait_again.set()
        await until(pilot, lambda: not is_answering(pilot))
        assert shown(conversation(pilot)[1]) == shown(FOLDED)
        assert session.conversation.line[-1].text == THOUGHT
    async with chat(answered(THOUGHT)) as pilot:
        await until(pilot, lambda: conversation(pilot)[1] == FOLDED)


async def test_the_prompt_may_have_opened_the_block() -> None:
    session = FakeSession([script("A man.\n</think>\n\nYes.")])
    session.begins_in_thinking = True
    async with chat(session) as pilot:
        await ask(pilot, "Is he?")
        await until(pilot, lambda: not is_answering(pilot))
        assert shown(conversation(pilot)[1]) == "▸ Thought for 2 words\nYes."


async def test_an_answer_that_was_stopped_while_thinking() -> None:
    session = FakeSession([[*tokens("<think>A man"), threading.Event(), *tokens("x")]])
    async with chat(session) as pilot:
        await ask(pilot, "Is he?")
        await until(pilot, lambda: conversation(pilot)[1] == "▸ Thinking… 2 words")
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot)[1] == "▸ Thought for 2 words"


async def test_an_empty_block_is_not_shown() -> None:
    session = FakeSession([[*letters("<think>\n\n</think>\n\nYes.")]])
    async with chat(session) as pilot:
        await ask(pilot, "Is he?")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot)[1] == "Yes."


async def test_tags_in_a_code_block_are_text() -> None:
    text = "So:\n\n```\n<think>x</think>\n```"
    async with chat(FakeSession([[*letters(text)]])) as pilot:
        await ask(pilot, "How?")
        await until(pilot, lambda: not is_answering(pilot))
        assert "<think>x</think>" in conversation(pilot)[1]
        assert "▸" not in conversation(pilot)[1]


async def test_a_click_on_its_line_unfolds_one_answer() -> None:
    async with chat(answered(THOUGHT), NARROW) as pilot:
        await until(pilot, lambda: conversation(pilot)[1] == FOLDED)
        await pilot.click("FinishedAnswer", offset=(5, 0))  # the heading
        await pilot.pause()
        assert conversation(pilot)[1] == FOLDED
        await pilot.click("FinishedAnswer", offset=(5, 1))
        await until(pilot, lambda: "│ A man, so he is mortal." in conversation(pilot)[1])
        await pilot.click("FinishedAnswer", offset=(5, 1))
        await until(pilot, lambda: conversation(pilot)[1] == FOLDED)


async def test_the_key_unfolds_also_what_is_being_written() -> None:
    wait = threading.Event()
    session = FakeSession([[*tokens("<think>A man"), wait, *tokens("</think>Yes.")]])
    async with chat(session) as pilot:
        await ask(pilot, "Is he?")
        await until(pilot, lambda: conversation(pilot)[1] == "▸ Thinking… 2 words")
        await pilot.press("alt+t")
        await until(pilot, lambda: conversation(pilot)[1] == "▾ Thinking… 2 words\n│ A man")
        wait.set()
        await until(pilot, lambda: not is_answering(pilot))
        assert shown(conversation(pilot)[1]) == "▾ Thought for 2 words\n│ A man\nYes."


async def test_copies_are_without_it_and_the_search_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "<think>\n```\nno\n```\n</think>\n\n```\nyes\n```"
    async with chat(answered(text)) as pilot:
        await pilot.press("alt+c")
        await until(pilot, lambda: pilot.app.clipboard == "```\nyes\n```")
        await pilot.press("alt+k")
        await until(pilot, lambda: pilot.app.clipboard == "yes\n")
        assert "Code block copied" in note(pilot)
        await pilot.press("ctrl+f", "n", "o")
        await until(pilot, lambda: text_of(pilot, "#matches") == "1 of 1")
