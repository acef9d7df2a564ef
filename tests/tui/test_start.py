"""The start: the chat is there before the model is, and loses nothing that is typed meanwhile."""

import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual import events
from textual._xterm_parser import XTermParser
from textual.pilot import Pilot

from llama_cpu.cli.chat import _chat_in_app
from llama_cpu.cli.main import chat_main
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.tui.app import CHOOSE_ANOTHER, ChatApp
from llama_cpu.tui.controllers.answering import NO_TAKE_BACK
from llama_cpu.tui.controllers.turn_actions import LOADING, NO_MODEL, STILL_WAITING
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.confirm import QuitQuestion
from tests.support.terminal import ROOT, Terminal
from tests.tui.driving import (
    ask,
    conversation,
    is_answering,
    note,
    prompt,
    screen,
    screen_text,
    until,
)
from tests.tui.fakes import FakeSession, planner, script
from tests.tui.scenes import several_talks
from tests.tui.test_model_screen import Models, choose_other


class Gate:
    """Loads a session once ``opens`` is called; ``error`` is raised instead."""

    def __init__(self, session: FakeSession, error: Exception | None = None) -> None:
        self.session, self.error = session, error
        self._event = threading.Event()
        self.opens = self._event.set

    def __call__(self, on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        on_progress(1 << 20, 4 << 20, "layers.0")
        while not self._event.wait(0.01):
            if stop.is_set():
                raise Cancelled
        if self.error:
            raise self.error
        return self.session


@asynccontextmanager
async def loading(gate: Gate, models: ModelSource | None = None) -> AsyncIterator[Pilot[int]]:
    """The app while its model is being loaded."""
    app = ChatApp(gate.session.conversation, planner(gate), models=models)
    try:
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, ChatScreen))
            await until(pilot, lambda: "25%" in screen_text(pilot))
            yield pilot
    finally:
        gate.opens()
        app.close()


def waits(pilot: Pilot[int]) -> bool:
    return "answers once it is loaded" in screen_text(pilot)


async def test_a_message_that_was_sent_early_is_answered() -> None:
    gate = Gate(FakeSession([script("Red.")]))
    async with loading(gate) as pilot:
        await ask(pilot, "Which colour has a fox?")
        await until(pilot, lambda: waits(pilot))
        assert "Which colour" in screen_text(pilot) and not prompt(pilot).text
        assert gate.session.conversation.line[-1].text == "Which colour has a fox?"
        await ask(pilot, "And a hare?")  # one message waits, the other stays where it is
        await until(pilot, lambda: STILL_WAITING in screen_text(pilot))
        gate.opens()
        await until(pilot, lambda: "Red." in conversation(pilot) and not is_answering(pilot))
        assert not waits(pilot) and "25%" not in screen_text(pilot)
        assert conversation(pilot) == ["You\nWhich colour has a fox?", "Red."]
        assert prompt(pilot).text == "And a hare?"


async def test_a_message_that_waits_is_taken_back() -> None:
    gate = Gate(FakeSession())
    async with loading(gate) as pilot:
        await ask(pilot, "Which colour has a fox?")
        await until(pilot, lambda: waits(pilot))
        prompt(pilot).insert("Now")
        await pilot.press("escape")
        await until(pilot, lambda: not waits(pilot))
        assert prompt(pilot).text == "Which colour has a fox?\nNow"
        assert not conversation(pilot) and not gate.session.conversation.line
        assert screen(pilot).is_loading
        await pilot.press("escape")  # stops loading, and loses nothing
        await until(pilot, lambda: CHOOSE_ANOTHER in " ".join(conversation(pilot)))
        assert prompt(pilot).text == "Which colour has a fox?\nNow"
        await pilot.press("enter")
        await until(pilot, lambda: NO_MODEL in screen_text(pilot))
        assert prompt(pilot).text == "Which colour has a fox?\nNow"
        await pilot.press("ctrl+q")
    assert pilot.app.return_value == 130


async def test_ctrl_c_asks_before_it_ends_a_load() -> None:
    gate = Gate(FakeSession())
    async with loading(gate) as pilot:
        await pilot.press("ctrl+c")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuitQuestion))
        await pilot.press("n")
        await until(pilot, lambda: screen(pilot).is_active)
        assert screen(pilot).is_loading and pilot.app.is_running
        await pilot.press("ctrl+c")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuitQuestion))
        gate.opens()  # goes on behind the question
        await until(pilot, lambda: screen(pilot).has_model)
        await pilot.press("y")
    assert pilot.app.return_value == 0


async def test_other_conversations_are_read_while_the_model_is_loading() -> None:
    gate = Gate(several_talks())
    gate.session.scripts = [script("Cold.")]
    async with loading(gate) as pilot:
        assert conversation(pilot)[0] == "You\nFoxes in the snow"
        await ask(pilot, "More.")
        await until(pilot, lambda: waits(pilot))
        await pilot.press("ctrl+b")
        await until(pilot, lambda: "Geese" in screen_text(pilot))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: conversation(pilot)[:1] == ["You\nGeese in the snow"])
        assert not waits(pilot) and NO_TAKE_BACK in {n.message for n in pilot.app._notifications}
        for key in ("f2", "f3", "f4", "f7", "ctrl+r", "ctrl+g"):
            await pilot.press(key)
            await until(pilot, lambda: LOADING in screen_text(pilot))
            assert pilot.app.screen is screen(pilot)
            screen(pilot).input.say("")
        await ask(pilot, "/set top_k 3")
        await until(pilot, lambda: note(pilot) == f"{LOADING}.")
        gate.opens()
        await until(pilot, lambda: screen(pilot).has_model)
        assert not is_answering(pilot)


@pytest.mark.parametrize("error", [UserError("w1 is damaged."), RuntimeError("bug")])
async def test_a_load_that_fails_loses_nothing(error: Exception) -> None:
    other = FakeSession([script("Red.")])
    gate = Gate(FakeSession(), error)

    def other_opens(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        other.conversation = gate.session.conversation
        return other

    async with loading(gate, Models(other_opens).source) as pilot:
        await ask(pilot, "Which colour has a fox?")
        await until(pilot, lambda: waits(pilot))
        gate.opens()
        await until(pilot, lambda: CHOOSE_ANOTHER in " ".join(conversation(pilot)))
        assert str(error) in " ".join(conversation(pilot))
        assert prompt(pilot).text == "Which colour has a fox?"
        assert pilot.app.failure is error  # type: ignore[attr-defined]
        await choose_other(pilot)
        await until(pilot, lambda: screen(pilot).has_model and screen(pilot).is_active)
        assert pilot.app.failure is None  # type: ignore[attr-defined]
        await until(pilot, lambda: prompt(pilot).has_focus)
        await pilot.press("enter")
        await until(pilot, lambda: "Red." in conversation(pilot))


async def test_keys_before_the_prompt_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = ChatApp.on_mount

    def typed_before(app: ChatApp) -> None:
        for letter in "hi":
            app.post_message(events.Key(letter, letter))
        app.post_message(events.Paste(" there"))
        mount(app)

    monkeypatch.setattr(ChatApp, "on_mount", typed_before)
    gate = Gate(FakeSession())
    async with loading(gate) as pilot:
        await until(pilot, lambda: prompt(pilot).text == "hi there")


async def test_enter_before_the_terminal_is_raw_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = ChatApp.on_mount

    def typed_before(app: ChatApp) -> None:
        parser = XTermParser()
        for event in parser.feed("a\nb\n"):
            app.post_message(event)
        mount(app)

    monkeypatch.setattr(ChatApp, "on_mount", typed_before)
    gate = Gate(FakeSession([script("Red.")]))
    async with loading(gate) as pilot:
        await until(pilot, lambda: waits(pilot))
        assert conversation(pilot)[0] == "You\na\nb" and not prompt(pilot).text


FIRST_FRAME = """
import asyncio, sys, threading
from llama_cpu.chat import models
from llama_cpu.cli import chat, main
from llama_cpu.tui import app

begun, seen = threading.Event(), threading.Event()

def first(self, on_progress, stop):
    begun.set()
    seen.wait()
    raise SystemExit

async def drive(app):
    async with app.run_test() as pilot:
        while not begun.is_set():
            await pilot.pause(0.01)
        await pilot.press(*"hello")
        print(app.screen.input.text, {"torch", "numba", "numpy"} & sys.modules.keys())
        seen.set()
        app.exit(0)

models.Models.first = first
app.run_app = lambda app, debug: asyncio.run(drive(app))
chat._plain_chat = chat._chat_in_app  # there is no terminal here
sys.exit(main.chat_main(["--ckpt_dir", ".", "--no_history"]))
"""


def test_the_first_frame_comes_before_torch_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_FRAME], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "hello set()\n", done.stderr


@pytest.mark.parametrize("wrong", [["--ckpt_dir", "/no/such"], ["--temperature", "999"]])
def test_a_wrong_option_is_said_without_the_app(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llama_cpu.cli.chat._plain_chat", _chat_in_app)
    monkeypatch.setattr("llama_cpu.tui.app.run_app", None)  # would raise
    assert chat_main([*wrong, "--no_history"]) == 2
    assert wrong[1] in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_sent_at_once_is_answered(demo_model: Path, tmp_path: Path) -> None:
    words = ["--ckpt_dir", str(demo_model), "--no_history", "--temperature", "0"]
    with Terminal("example_chat.py", *words, columns=120, rows=40) as terminal:
        terminal.type("What is the capital of France?")
        terminal.wait_for("of France?")
        terminal.wait_for("Loading")
        terminal.type("\r")
        terminal.wait_for("France is Paris")
        terminal.type("\x11")
        assert terminal.wait() == 0
