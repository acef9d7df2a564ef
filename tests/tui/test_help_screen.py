"""Help, and what is shown at the first start."""

from pathlib import Path

import pytest
from textual import events
from textual.widgets import Button

from llama_cpu.tui.actions import COMMANDS, KEYED
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.help import HelpScreen, WelcomeScreen, help_text, welcome_text
from tests.tui.driving import NARROW, WIDE, chat, prompt, screen, screen_text, until
from tests.tui.fakes import FakeSession


def test_every_action_is_in_the_help_with_its_present_key() -> None:
    text = help_text({"regenerate": "f9"}).plain
    for name, action in KEYED.items():
        assert name in text and action.help in text
    line = next(line for line in text.splitlines() if line.endswith("regenerate"))
    assert "F9" in line and "Ctrl+R" not in line
    for command in COMMANDS.values():
        assert command.usage in text and command.help in text


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_help_opens_scrolls_and_closes(size: tuple[int, int]) -> None:
    async with chat(FakeSession([]), size) as pilot:
        assert "F1: help" in screen_text(pilot)
        await pilot.press("f1", "f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        assert "Everywhere" in screen_text(pilot)
        await pilot.press("end")
        await until(pilot, lambda: "config.toml" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        assert prompt(pilot).has_focus


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_the_first_start(size: tuple[int, int], tmp_path: Path) -> None:
    marker = tmp_path / "state" / "welcomed"
    preferences = Preferences(welcome_marker=marker, keymap={"settings": "f9"})
    async with chat(FakeSession([]), size, preferences=preferences, is_first=True) as pilot:
        shown = screen_text(pilot)
        for line in welcome_text(preferences.keymap).splitlines():
            assert line.split()[0] in shown and line.split()[-1] in shown
        assert "F9" in shown and not marker.exists()
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        assert marker.exists() and prompt(pilot).has_focus
    async with chat(FakeSession([]), size, preferences=preferences) as pilot:
        assert not isinstance(pilot.app.screen, WelcomeScreen)


async def test_what_is_typed_at_once_is_not_lost(tmp_path: Path) -> None:
    preferences = Preferences(welcome_marker=tmp_path / "welcomed")
    async with chat(FakeSession([]), preferences=preferences, is_first=True) as pilot:
        await pilot.press(*"Hello", "space", *"you")
        await until(pilot, lambda: prompt(pilot).text == "Hello you")
        assert pilot.app.screen is screen(pilot) and prompt(pilot).has_focus
    assert preferences.welcome_marker is not None and preferences.welcome_marker.exists()


async def test_what_is_pasted_at_once_is_not_lost(tmp_path: Path) -> None:
    preferences = Preferences(welcome_marker=tmp_path / "welcomed")
    async with chat(FakeSession([]), preferences=preferences, is_first=True) as pilot:
        pilot.app.post_message(events.Paste("one\r\ntwo"))
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        await pilot.pause(0.2)
        assert prompt(pilot).text == "one\ntwo" and prompt(pilot).has_focus  # and not twice


async def test_it_is_five_lines() -> None:
    assert len(welcome_text({}).splitlines()) == 5


async def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    preferences = Preferences(welcome_marker=tmp_path / "state" / "welcomed")
    async with chat(FakeSession([]), preferences=preferences, is_first=True) as pilot:
        await pilot.click(Button)
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        assert prompt(pilot).has_focus
