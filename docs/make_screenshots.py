"""Takes the pictures of screens.md of the real app with the demo model; run it as a script.

The home folder is an empty one, apart from the demo model, so that nothing of this computer's is
in the pictures but its figures.
"""

import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as the command line sets it

from textual.pilot import Pilot

from llama_cpu.chat.models import Models, find_models
from llama_cpu.chat.open_conversation import open_conversation
from llama_cpu.chat.session_protocol import LoadProgress, ModelChoice
from llama_cpu.cli.main import command_parser
from llama_cpu.loading.demo_model import fetch_demo_model
from llama_cpu.system.paths import cache_folder
from llama_cpu.tui import about
from llama_cpu.tui.app import ChatApp
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.chat import ChatScreen
from tests.support.svg import smaller
from tests.tui.driving import ask, screen_text

FOLDER = Path(__file__).parent / "screens"
SIZE, TALL = (110, 32), (120, 44)
EARLIER = ("Why is the sky blue?", "Name three kinds of bread.")
QUESTIONS = (
    "What is the capital of France?",
    "And of Germany?",
    "Write a Python function that returns the nth Fibonacci number.",
)
# Of each screen that is opened from the chat: the picture's name, the keys that open it, the text
# that is there then, and the keys that lead back.
SCREENS = (
    ("sidebar", ("ctrl+b",), "Rename", ("escape",)),
    ("ask", ("ctrl+b", "r"), "Title", ("escape", "escape")),
    ("confirm", ("ctrl+b", "d"), "Delete “", ("escape", "escape")),
    ("find", ("ctrl+f", *"berlin"), " of ", ("escape",)),
    ("slash", ("slash",), "/regenerate", ("escape", "backspace")),
    ("settings", ("f2",), "temperature", ("escape",)),
    ("figures", ("f7",), "Decode: ", ("escape",)),
    ("lens", ("f4", "end"), "The most probable", ("escape",)),
    ("models", ("f3",), "LLaMA, ", ("escape",)),
    ("downloads", ("f3", "d"), "Mistral 7B", ("escape", "escape")),
    ("help", ("f1",), "Everywhere", ("escape",)),
    ("palette", ("ctrl+p",), "Continue", ("escape",)),
)


async def seen(pilot: Pilot[int], text: str) -> None:
    """Wait for a text on the screen."""
    while text not in screen_text(pilot):
        await pilot.pause(0.02)


def take(pilot: Pilot[int], name: str) -> None:
    svg = smaller(pilot.app.export_screenshot(simplify=True))
    (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")


async def answered(pilot: Pilot[int], question: str) -> None:
    await ask(pilot, question)
    await pilot.pause(1)
    while pilot.app.screen.answering.is_busy:  # type: ignore[attr-defined]
        await pilot.pause(0.2)
    await pilot.pause(1.5)  # the panels follow


async def visit_start(pilot: Pilot[int], load: Callable[[], None]) -> None:
    """The welcome, and then the chat while the model is being loaded; ``load`` begins that."""
    await seen(pilot, "Begin")
    await pilot.pause(1)
    take(pilot, "welcome")
    await pilot.press("escape")
    load()
    await seen(pilot, "%  ·")
    take(pilot, "loading")
    await seen(pilot, "threads")  # in the title, once the model is loaded


async def visit(pilot: Pilot[int]) -> None:
    """Every other screen."""
    for question in EARLIER:
        await answered(pilot, question)
        await pilot.press("ctrl+n")
        await pilot.pause(0.5)
    for question in QUESTIONS:
        await answered(pilot, question)
    await pilot.resize_terminal(*TALL)
    await pilot.press("ctrl+b", "ctrl+b")  # the list has a picture of its own
    await pilot.pause(2)
    take(pilot, "chat")
    await pilot.resize_terminal(*SIZE)
    await pilot.pause(0.5)
    for name, keys, text, back in SCREENS:
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.3)
        await seen(pilot, text)
        await pilot.pause(0.5)
        take(pilot, name)
        for key in back:
            await pilot.press(key)
            await pilot.pause(0.3)
        assert isinstance(pilot.app.screen, ChatScreen)


async def main() -> None:
    args = command_parser("chat", "make_screenshots").parse_args(["--temperature", "0"])
    preferences = Preferences(welcome_marker=Path.home() / "welcomed")
    with open_conversation(args) as conversation:
        models = Models(args, conversation)
        source = ModelSource(lambda: find_models([]), models.choose)
        begin = threading.Event()

        def first(on_progress: LoadProgress, stop: threading.Event) -> ModelChoice:
            begin.wait()
            return models.first(on_progress, stop)

        app = ChatApp(conversation, first, preferences, source, is_demo=True)
        async with app.run_test(size=SIZE) as pilot:
            await visit_start(pilot, begin.set)
            await visit(pilot)
        app.close()


if __name__ == "__main__":
    fetch_demo_model()
    cached = cache_folder()
    with tempfile.TemporaryDirectory() as home:
        for name in [each for each in os.environ if each.startswith("XDG_")]:
            del os.environ[name]
        os.environ["HOME"] = home
        cache_folder().parent.mkdir(parents=True)
        cache_folder().symlink_to(cached)
        about.model_folder = lambda: Path.home() / "llama_cpu" / "model"
        about.tokenizer_folder = lambda: Path.home() / "llama_cpu" / "tokenizer"
        asyncio.run(main())
