"""The settings screen: what may be typed, and what becomes of it."""

import threading

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Select, Static, TextArea

from llama_cpu.settings.generation_settings import SETTINGS, Settings
from llama_cpu.settings.user_config import UserConfig
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.chat import SETTINGS_CHANGED
from llama_cpu.tui.screens.settings import CONTEXT, SettingsScreen
from tests.tui.driving import (
    NARROW,
    WIDE,
    ask,
    chat,
    conversation,
    is_answering,
    prompt,
    screen_text,
    text_of,
    until,
)
from tests.tui.fakes import FakeSession, tokens


async def opened(pilot: Pilot[int]) -> SettingsScreen:
    await pilot.press("f2")
    await until(pilot, lambda: isinstance(pilot.app.screen, SettingsScreen))
    screen = pilot.app.screen
    assert isinstance(screen, SettingsScreen)
    return screen


def field(screen: SettingsScreen, name: str) -> Input:
    return screen.query_one(f"#{name}", Input)


def about(screen: SettingsScreen, name: str) -> str:
    return str(screen.query_one(f"#about_{name}", Static).render())


async def test_every_setting_is_there_and_explained() -> None:
    settings = Settings("Be kind.", None, 0.5, 0.9, 40, 0.05, 1.1, 7, 100)
    async with chat(FakeSession([], settings=settings)) as pilot:
        screen = await opened(pilot)
        assert screen.query_one("#system", TextArea).text == "Be kind."
        for name in SETTINGS.keys() - {"system"}:
            value = getattr(settings, name)
            assert field(screen, name).value == ("" if value is None else str(value))
            assert SETTINGS[name].about in about(screen, name)
        assert "4,096 tokens" in screen_text(pilot) and CONTEXT in screen_text(pilot)


@pytest.mark.parametrize("key", ["ctrl+s", "enter"])
async def test_what_is_typed_is_applied(key: str) -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        screen = await opened(pilot)
        screen.query_one("#system", TextArea).load_text("Be\nkind.")
        field(screen, "temperature").value = "0.25"
        field(screen, "seed").value = "7"
        field(screen, "template").value = "vicuna"
        field(screen, "temperature").focus()
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen is not screen)
        assert session.settings == Settings("Be\nkind.", "vicuna", 0.25, seed=7)
        assert "vicuna template" in text_of(pilot, "#about")
        assert prompt(pilot).border_subtitle == SETTINGS_CHANGED
        assert prompt(pilot).has_focus


async def test_escape_changes_nothing() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        screen = await opened(pilot)
        field(screen, "temperature").value = "0.25"
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is not screen)
        assert session.settings == Settings()


@pytest.mark.parametrize(("button", "temperature"), [("#cancel", 0.8), ("#apply", 0.25)])
async def test_the_buttons(button: str, temperature: float) -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        screen = await opened(pilot)
        field(screen, "temperature").value = "0.25"
        await pilot.click(button)
        await until(pilot, lambda: pilot.app.screen is not screen)
        assert session.settings.temperature == temperature


async def test_the_range_is_checked_while_it_is_typed() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        screen = await opened(pilot)
        field(screen, "top_p").focus()
        await pilot.press("end", "5", "5", "5")
        assert "0.95555" in field(screen, "top_p").value
        await pilot.press("home", "7")
        await until(pilot, lambda: about(screen, "top_p") == "must be a number from 0 to 1")
        field(screen, "seed").focus()
        await pilot.press("x", "ctrl+s")
        assert pilot.app.screen is screen and session.settings == Settings()
        assert field(screen, "top_p").has_focus  # the first one that is wrong
        field(screen, "top_p").value = "0.7"
        await until(pilot, lambda: "must" not in about(screen, "top_p"))
        field(screen, "seed").value = ""
        await pilot.press("ctrl+s")
        await until(pilot, lambda: pilot.app.screen is not screen)
        assert session.settings.top_p == 0.7


async def test_a_template_that_cannot_be_read_is_said() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        screen = await opened(pilot)
        field(screen, "template").value = "unheard-of"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "no such file" in screen_text(pilot))
        assert pilot.app.screen is screen and session.settings == Settings()


async def test_during_an_answer() -> None:
    wait = threading.Event()
    session = FakeSession([[*tokens("Once"), wait, *tokens(" more")]])
    async with chat(session) as pilot:
        await ask(pilot, "Hi")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once")
        screen = await opened(pilot)
        field(screen, "temperature").value = "0.25"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: session.settings.temperature == 0.25)
        wait.set()
        await until(pilot, lambda: conversation(pilot)[-1] == "Once more")
        await until(pilot, lambda: not is_answering(pilot))


async def test_the_key_pressed_twice_opens_one() -> None:
    async with chat(FakeSession([])) as pilot:
        await pilot.press("f2", "f2")
        await until(pilot, lambda: isinstance(pilot.app.screen, SettingsScreen))
        await pilot.press("escape")
        await until(pilot, lambda: prompt(pilot).has_focus)
        assert len(pilot.app.screen_stack) == 2


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_everything_can_be_reached(size: tuple[int, int]) -> None:
    async with chat(FakeSession([]), size) as pilot:
        screen = await opened(pilot)
        seen = set()
        for _ in range(len(SETTINGS) + 2):
            assert screen.focused is not None
            seen.add(screen.focused.id)
            region = screen.focused.region
            assert screen.region.contains_region(region)
            await pilot.press("tab")
        assert seen == SETTINGS.keys() | {"cancel", "apply"}
        assert "Apply" in screen_text(pilot)


async def test_a_preset_fills_in_the_fields() -> None:
    presets = {"brief": {"system": "Be brief.", "temperature": 0.125}}
    preferences = Preferences(UserConfig(presets=presets))
    session = FakeSession([], settings=Settings(top_k=5))
    async with chat(session, preferences=preferences) as pilot:
        screen = await opened(pilot)
        screen.query_one(Select).value = "brief"
        await until(pilot, lambda: field(screen, "temperature").value == "0.125")
        assert screen.query_one("#system", TextArea).text == "Be brief."
        assert field(screen, "top_k").value == "0"  # the preset does not name it
        await pilot.press("ctrl+s")
        await until(pilot, lambda: pilot.app.screen is not screen)
        assert session.settings == Settings("Be brief.", temperature=0.125)
        screen = await opened(pilot)
        assert screen.query_one(Select).value == "brief"  # which leaves what was changed since
        screen.query_one(Select).value = "default"
        await until(pilot, lambda: field(screen, "temperature").value == "0.8")
        assert screen.query_one("#system", TextArea).text == ""
    session.settings = Settings("Be brief.", temperature=0.125, top_k=7)
    async with chat(session, preferences=preferences) as pilot:
        screen = await opened(pilot)
        await pilot.pause()
        assert screen.query_one(Select).value == "brief" and field(screen, "top_k").value == "7"
    async with chat(session) as pilot:
        assert not (await opened(pilot)).query(Select)  # there are no presets
