"""Running the app with a fake session, and reading what it shows."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static

from llama_cpu.tui.app import ChatApp
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.help import WelcomeScreen
from llama_cpu.tui.widgets.message_area import PromptNote
from llama_cpu.tui.widgets.message_input import MessageInput
from llama_cpu.tui.widgets.message_views import Answer, FinishedAnswer, Notice, Passage, UserMessage
from tests.tui.fakes import PATIENCE, FakePlan, FakeSession, opener, planner

WIDE = (120, 40)
NARROW = (80, 24)


@asynccontextmanager
async def chat(
    session: FakeSession,
    size: tuple[int, int] = WIDE,
    is_demo: bool = False,
    preferences: Preferences | None = None,
    is_first: bool = False,
    models: ModelSource | None = None,
) -> AsyncIterator[Pilot[int]]:
    """The app on its chat screen; ``is_first``: with the lines for the first time over it."""
    app = ChatApp(
        session.conversation,
        planner(opener(session), FakePlan(is_demo=is_demo)),
        preferences=preferences,
        models=models,
        is_demo=is_demo,
    )
    try:
        async with app.run_test(size=size) as pilot:
            wanted = WelcomeScreen if is_first else ChatScreen
            await until(pilot, lambda: isinstance(app.screen, wanted) and screen(pilot).has_model)
            await until(pilot, lambda: any(p.has_focus for p in screen(pilot).query(MessageInput)))
            yield pilot
    finally:
        app.close()


async def until(pilot: Pilot[int], condition: Callable[[], bool]) -> None:
    """Let the app run until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the app did not get there"
        await pilot.pause(0.01)
    await pilot.pause()


async def ask(pilot: Pilot[int], text: str) -> None:
    """Write and send."""
    prompt(pilot).insert(text)
    await pilot.press("enter")
    await pilot.pause()


async def ask_and_wait(pilot: Pilot[int], text: str) -> None:
    """Write, send, and wait until the answer is complete."""
    await ask(pilot, text)
    await until(pilot, lambda: not is_answering(pilot))


def prompt(pilot: Pilot[int]) -> MessageInput:
    return screen(pilot).query_one(MessageInput)


def screen(pilot: Pilot[int]) -> ChatScreen:
    return next(s for s in pilot.app.screen_stack if isinstance(s, ChatScreen))


def is_answering(pilot: Pilot[int]) -> bool:
    return any(worker.group in ("answer", "command") for worker in pilot.app.workers)


def conversation(pilot: Pilot[int]) -> list[str]:
    """The conversation's messages as text, in order."""
    shown = []
    for widget in screen(pilot).query("UserMessage, Notice, Answer, FinishedAnswer"):
        if isinstance(widget, Answer):
            shown.append("\n".join(str(p.render()) for p in widget.query(Passage)))
        elif isinstance(widget, FinishedAnswer):
            shown.append(str(widget.render()).partition("\n")[2])  # without its speaker
        elif isinstance(widget, UserMessage | Notice):
            shown.append(str(widget.render()))
    return shown


def note(pilot: Pilot[int]) -> str:
    """What a command said, above the prompt."""
    shown = screen(pilot).query_one(PromptNote)
    return str(shown.query_one(Static).render()) if shown.display else ""


def text_of(pilot: Pilot[int], selector: str) -> str:
    return str(screen(pilot).query_one(selector, Widget).render())


def screen_text(pilot: Pilot[int]) -> str:
    """All characters on the screen."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips)
