"""Answers that the user edits."""

from pathlib import Path

from llama_cpu.chat.conversation import GONE
from llama_cpu.history.rows import State
from llama_cpu.history.store import History
from llama_cpu.tui.controllers.turn_actions import (
    ANSWER_SAVED,
    EDITING_ANSWER,
    UNCHANGED,
)
from tests.support.conversations import id_of
from tests.tui.driving import (
    ask_and_wait,
    chat,
    conversation,
    is_answering,
    note,
    prompt,
    screen,
    until,
)
from tests.tui.fakes import FakeMessage, FakeSession, script

TALK = [
    FakeMessage("user", "Capital?"),
    FakeMessage("assistant", "/Lyon."),
    FakeMessage("user", "Sure?"),
    FakeMessage("assistant", "Yes."),
]


async def test_an_edited_answer_is_an_alternative_that_ctrl_g_continues() -> None:
    session = FakeSession([script("Lyon."), script(" It has rivers.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Capital?")
        before = session.conversation.line[-1]
        assert before.token_ids and before.token_seconds and before.runs
        prompt(pilot).insert("a draft")
        await pilot.press("alt+up", "enter")
        await until(pilot, lambda: prompt(pilot).has_focus)
        assert (prompt(pilot).text, prompt(pilot).border_title) == ("Lyon.", EDITING_ANSWER)
        prompt(pilot).text = "\n  Paris."
        await pilot.press("enter")
        await until(pilot, lambda: conversation(pilot) == ["You\nCapital?", "Paris."])
        await until(pilot, lambda: not is_answering(pilot))
        assert prompt(pilot).text == "a draft" and not prompt(pilot).border_title
        assert len(session.scripts) == 1  # no answer was generated
        edited = session.conversation.line[-1]
        assert (edited.model, edited.state) == (before.model, State.COMPLETE)
        assert (len(edited.token_ids), len(edited.token_seconds), len(edited.runs)) == (0, 0, 0)
        assert session.conversation.alternatives(edited.id) == (before.id, edited.id)
        assert session.history.message(before.id) == before

        await pilot.press("ctrl+g")
        await until(pilot, lambda: conversation(pilot)[-1] == "Paris. It has rivers.")
        await until(pilot, lambda: not is_answering(pilot))
        assert session.conversation.line[-1].id == edited.id
        await pilot.press("f7", "escape", "alt+left")  # the figures do without those of the answer
        await until(pilot, lambda: conversation(pilot)[-1] == "Lyon.")
        await until(pilot, lambda: not is_answering(pilot))


async def test_an_earlier_answer_and_esc() -> None:
    session = FakeSession([], TALK)
    async with chat(session) as pilot:
        for keys in (("e", "!", "escape"), ("e", "enter")):
            await pilot.press("alt+up", "alt+up", "alt+up", *keys)
            await until(pilot, lambda: not is_answering(pilot))
            assert conversation(pilot) == ["You\nCapital?", "/Lyon.", "You\nSure?", "Yes."]
            assert prompt(pilot).text == prompt(pilot).border_title == ""
        assert prompt(pilot).border_subtitle == UNCHANGED
        await pilot.press("alt+up", "alt+up", "alt+up", "e")
        assert prompt(pilot).text == "//Lyon."  # a slash alone would begin a command
        await pilot.press("!", "enter")
        await until(pilot, lambda: conversation(pilot) == ["You\nCapital?", "/Lyon.!"])
        await until(pilot, lambda: not is_answering(pilot))
        assert prompt(pilot).border_subtitle == ANSWER_SAVED
        assert len(session.history.tree(id_of(session.conversation))[1]) == 5


async def test_an_answer_of_a_conversation_that_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History(path) as history, History(path) as other:
        session = FakeSession([], TALK, history)
        async with chat(session) as pilot:
            await pilot.press("alt+up", "enter", "!")
            other.delete(id_of(session.conversation))
            await pilot.press("enter")
            await until(pilot, lambda: prompt(pilot).border_title == EDITING_ANSWER)
            assert prompt(pilot).text == "Yes.!" and GONE in conversation(pilot)
            await pilot.press("enter")
            await until(pilot, lambda: len(other.conversations()) == 1)
            await until(pilot, lambda: not is_answering(pilot))
            [saved] = other.conversations()
            assert other.path(saved.id)[-1].text == "Yes.!"
            assert screen(pilot).conversation.is_persistent and not note(pilot)
