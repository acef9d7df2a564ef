"""Visiting every screen and dialog of the app, one after the other, in one run."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.screen import Screen

from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.screens.figures import FiguresScreen
from llama_cpu.tui.screens.help import HelpScreen
from llama_cpu.tui.screens.lens import LensScreen
from llama_cpu.tui.screens.models import ModelScreen
from llama_cpu.tui.screens.settings import SettingsScreen
from llama_cpu.tui.widgets.find_bar import FindBar
from llama_cpu.tui.widgets.message_area import SlashMenu
from tests.tui.driving import prompt, screen, until


@dataclass(frozen=True)
class Stop:
    """``keys`` open a screen of the kind ``shows``, and ``back`` leads to the chat again."""

    name: str
    keys: tuple[str, ...] = ()
    shows: type[Screen] = ChatScreen
    back: tuple[str, ...] = ("escape",)


STOPS = (
    Stop("chat", back=()),
    Stop("an answer", ("alt+up",)),
    Stop("editing an answer", ("alt+up", "e")),
    Stop("editing", ("alt+up", "alt+up", "e")),
    Stop("a note", (*"/set", "enter"), back=("escape",)),
    Stop("slash", ("slash",), back=("escape", "backspace")),
    Stop("find", ("ctrl+f", *"x")),
    Stop("sidebar", ("ctrl+b",)),
    Stop("rename", ("ctrl+b", "r"), Ask, ("escape", "escape")),
    Stop("delete", ("ctrl+b", "d"), Confirm, ("escape", "escape")),
    Stop("settings", ("f2",), SettingsScreen),
    Stop("models", ("f3",), ModelScreen),
    Stop("figures", ("f7",), FiguresScreen),
    Stop("lens", ("f4",), LensScreen),
    Stop("help", ("f1",), HelpScreen),
    Stop("palette", ("ctrl+p",), CommandPalette),
)


async def walk(pilot: Pilot[int]) -> AsyncIterator[Stop]:
    """Yield at every stop, with its screen open."""
    for stop in STOPS:
        for key in stop.keys:
            await pilot.press(key)
            await pilot.pause()
        await _shows(pilot, stop.shows)
        if stop.name in ("sidebar", "rename", "delete"):
            await until(pilot, lambda: screen(pilot).sidebar.display)
        elif stop.name == "find":
            await until(pilot, lambda: screen(pilot).query_one(FindBar).display)
        elif stop.name == "slash":
            await until(pilot, lambda: screen(pilot).query_one(SlashMenu).display)
        await pilot.pause(0.05)
        yield stop
        for key in stop.back:
            await pilot.press(key)
            await pilot.pause()
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        prompt(pilot).focus()
        await pilot.pause()


async def _shows(pilot: Pilot[int], kind: type[Screen]) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
