"""Keys that come while another one's work is under way."""

import asyncio

import pytest

from llama_cpu.tui.controllers.turn_actions import STILL_ANSWERING
from llama_cpu.tui.widgets.conversation_view import ConversationView
from tests.tui.driving import (
    ask,
    ask_and_wait,
    chat,
    conversation,
    is_answering,
    prompt,
    screen,
    until,
)
from tests.tui.fakes import PATIENCE, FakeMessage, FakeSession, script


class Gate:
    """Holds up one of the conversation's methods."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        original = getattr(ConversationView, method)

        async def held_up(*arguments: object) -> None:
            self.reached.set()
            await asyncio.wait_for(self.opened.wait(), PATIENCE)
            await original(*arguments)

        monkeypatch.setattr(ConversationView, method, held_up)


async def test_enter_while_the_last_answer_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession([script("First."), script("First again."), script("Second.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "one")
        gate = Gate(monkeypatch, "show")
        await pilot.press("ctrl+r")
        await gate.reached.wait()
        await ask(pilot, "two")
        assert prompt(pilot).text == "two"
        assert prompt(pilot).border_subtitle == STILL_ANSWERING
        gate.opened.set()
        await until(pilot, lambda: len(session.messages) == 2 and not is_answering(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: len(session.messages) == 4 and not is_answering(pilot))
        assert conversation(pilot) == ["You\none", "First again.", "You\ntwo", "Second."]


async def test_regenerate_while_a_message_is_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession([script("Both.")], [FakeMessage("user", "one")])
    async with chat(session) as pilot:
        gate = Gate(monkeypatch, "show")
        prompt(pilot).insert("two")
        prompt(pilot).action_send()
        await gate.reached.wait()
        await screen(pilot).turns.regenerate()
        gate.opened.set()
        await until(pilot, lambda: len(session.messages) == 3 and not is_answering(pilot))
        assert conversation(pilot) == ["You\none", "You\ntwo", "Both."]


async def test_regenerate_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession([script("Lyon."), script("Paris.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Capital?")
        gate = Gate(monkeypatch, "show")
        await pilot.press("ctrl+r", "ctrl+r")
        await gate.reached.wait()
        gate.opened.set()
        await until(pilot, lambda: conversation(pilot) == ["You\nCapital?", "Paris."])
        await until(pilot, lambda: not is_answering(pilot))
