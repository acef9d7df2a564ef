"""Every key of the app is pressed here, each of them alone, and does what its name says.

A new action needs a function below, marked with the action's name; it is called once for each of
the action's keys.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Button, DataTable, Input, OptionList

from llama_cpu.system.paths import state_folder
from llama_cpu.tui.actions import KEYED
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm, QuitQuestion
from llama_cpu.tui.screens.downloads import DownloadScreen
from llama_cpu.tui.screens.figures import FiguresScreen
from llama_cpu.tui.screens.help import HelpScreen
from llama_cpu.tui.screens.leaving import LeavingScreen
from llama_cpu.tui.screens.lens import LensScreen
from llama_cpu.tui.screens.loading import LoadingScreen
from llama_cpu.tui.screens.models import ModelScreen
from llama_cpu.tui.screens.settings import SettingsScreen
from llama_cpu.tui.widgets.find_bar import FOUND, FindBar
from llama_cpu.tui.widgets.lens_text import LensText
from llama_cpu.tui.widgets.message_views import Choosable, FinishedAnswer, UserMessage
from tests.support.conversations import latest_of
from tests.tui.driving import (
    NARROW,
    ask_and_wait,
    chat,
    conversation,
    is_answering,
    prompt,
    screen,
    screen_text,
    text_of,
    until,
)
from tests.tui.fakes import FakeMessage, FakeSession, script
from tests.tui.lens_words import WORDS, looks
from tests.tui.scenes import SCENES, KeepingCache, a_talk, app_of, several_talks, stuck, timed_talk

Check = Callable[[str], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def pressing(action: str) -> Callable[[Check], Check]:
    """Marks what is to be called with each key of this action."""

    def mark(check: Check) -> Check:
        assert action not in CHECKS
        CHECKS[action] = check
        return check

    return mark


def every_key() -> list[tuple[str, str]]:
    return [(name, key) for name, each in KEYED.items() for key in each.keys.split(",")]


def test_there_is_a_check_for_every_action() -> None:
    assert CHECKS.keys() == KEYED.keys()


@pytest.mark.parametrize(("action", "key"), every_key())
async def test_key(action: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where copies go
    await CHECKS[action](key)


CODE = "Two blocks:\n\n```\none\n```\n\n```\ntwo\n```\n"


def two_turns() -> FakeSession:
    texts = ("user", "first"), ("assistant", "One."), ("user", "second"), ("assistant", CODE)
    return FakeSession(earlier=[FakeMessage(*each) for each in texts])


async def shows(pilot: Pilot[int], kind: type[Screen]) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))


async def shows_chat(pilot: Pilot[int]) -> None:
    await until(pilot, lambda: pilot.app.screen is screen(pilot))


# Everywhere


@pressing("quit")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
    assert pilot.app.return_value == 0


@pressing("interrupt")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, QuitQuestion)
        await pilot.press(key)
    assert pilot.app.return_value == 0


@pressing("command_palette")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, CommandPalette)


@pressing("help")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, HelpScreen)


# In the chat


@pressing("send")
async def _(key: str) -> None:
    async with chat(FakeSession([script("One.")])) as pilot:
        await pilot.press("a", key)
        await until(pilot, lambda: conversation(pilot) == ["You\na", "One."])
        assert prompt(pilot).text == ""


@pressing("new_line")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press("a", key, "b")
        assert prompt(pilot).text == "a\nb"


@pressing("stop")
async def _(key: str) -> None:
    session = stuck(*script("One.")[:-1])()
    async with chat(session) as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "One." in conversation(pilot))
        await pilot.press(key)
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot)[1:] == ["One.", "Stopped; Ctrl+G continues."]


@pressing("new_conversation")
async def _(key: str) -> None:
    async with chat(two_turns()) as pilot:
        await pilot.press(key)
        await shows(pilot, Confirm)  # as nothing of it is kept
        await pilot.press("y")
        await until(pilot, lambda: conversation(pilot) == [])


@pressing("regenerate")
async def _(key: str) -> None:
    async with chat(FakeSession([script("One."), script("Two.")])) as pilot:
        await ask_and_wait(pilot, "a")
        await pilot.press(key)
        await until(pilot, lambda: conversation(pilot) == ["You\na", "Two."])


@pressing("sidebar")
async def _(key: str) -> None:
    async with chat(FakeSession(), NARROW) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: screen(pilot).sidebar.has_focus_within)
        await pilot.press(key)
        await until(pilot, lambda: not screen(pilot).sidebar.display)
        assert prompt(pilot).has_focus


@pressing("continue_answer")
async def _(key: str) -> None:
    session = a_talk()
    session.scripts = [script(" run.")]
    async with chat(session) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: not is_answering(pilot) and not session.scripts)
        assert session.messages[-1].text == "Hares do not dig burrows; they run."


@pressing("find")
async def _(key: str) -> None:
    async with chat(two_turns()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: screen(pilot).query_one(FindBar).has_focus_within)


@pressing("settings")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, SettingsScreen)


@pressing("models")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, ModelScreen)


@pressing("panels")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: not screen(pilot).query_one("#side").display)
        await pilot.press(key)
        await until(pilot, lambda: screen(pilot).query_one("#side").display)


@pressing("figures")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, FiguresScreen)


@pressing("earlier_answer")
async def _(key: str) -> None:
    session = a_talk()
    async with chat(session) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: conversation(pilot)[1:] == ["They are red."])


@pressing("later_answer")
async def _(key: str) -> None:
    session = a_talk()
    async with chat(session) as pilot:
        await pilot.press("alt+left")
        await until(pilot, lambda: len(session.messages) == 2)
        await pilot.press(key)
        await until(pilot, lambda: len(session.messages) == 4)


@pressing("message_before")
async def _(key: str) -> None:
    async with chosen("second", by=(key, key)) as pilot:
        await pilot.press(key)
        await is_chosen(pilot, "One.")


@pressing("message_after")
async def _(key: str) -> None:
    async with chosen("second", by=("alt+up", "alt+up")) as pilot:
        await pilot.press(key)
        await is_chosen(pilot, CODE)
        await pilot.press(key)
        await until(pilot, lambda: prompt(pilot).has_focus)


@pressing("delete_turn")
async def _(key: str) -> None:
    async with chat(two_turns()) as pilot:
        await pilot.press(key)
        await shows(pilot, Confirm)
        await pilot.press("y")
        await until(pilot, lambda: conversation(pilot) == ["You\nfirst", "One."])


@pressing("pin_this")
async def _(key: str) -> None:
    session = two_turns()
    async with chat(session) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: session.history.conversations()[0].pinned)
        await pilot.press(key)
        await until(pilot, lambda: not session.history.conversations()[0].pinned)


@pressing("copy_answer")
async def _(key: str) -> None:
    async with chat(two_turns()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.clipboard == CODE)


@pressing("copy_code")
async def _(key: str) -> None:
    async with chat(two_turns()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.clipboard.strip() == "two")
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.clipboard.strip() == "one")


@pressing("thinking")
async def _(key: str) -> None:
    thought = "<think>A man.</think>Mortal."
    session = FakeSession(earlier=[FakeMessage("user", "a"), FakeMessage("assistant", thought)])
    async with chat(session) as pilot:
        await until(pilot, lambda: conversation(pilot)[1] == "▸ Thought for 2 words\n\nMortal.")
        await pilot.press(key)
        shown = "▾ Thought for 2 words\n│ A man.\n\nMortal."
        await until(pilot, lambda: conversation(pilot)[1] == shown)
        await pilot.press(key)
        await until(pilot, lambda: "A man." not in conversation(pilot)[1])


@pressing("scroll_up")
async def _(key: str) -> None:
    async with at_the_end() as (pilot, end):
        await pilot.press(key)
        await until(pilot, lambda: screen(pilot).conversation_view.scroll_y < end)


@pressing("scroll_down")
async def _(key: str) -> None:
    async with at_the_end() as (pilot, end):
        screen(pilot).conversation_view.scroll_home(animate=False)
        await until(pilot, lambda: screen(pilot).conversation_view.scroll_y == 0)
        await pilot.press(key)
        await until(pilot, lambda: 0 < screen(pilot).conversation_view.scroll_y < end)


@asynccontextmanager
async def at_the_end() -> AsyncIterator[tuple[Pilot[int], float]]:
    """A conversation of several screens."""
    lines = "\n\n".join(f"Line {number}" for number in range(60))
    session = FakeSession(earlier=[FakeMessage("user", "a"), FakeMessage("assistant", lines)])
    async with chat(session, NARROW) as pilot:
        shown = screen(pilot).conversation_view
        await until(pilot, lambda: shown.scroll_y == shown.max_scroll_y > 60)
        yield pilot, shown.max_scroll_y


@pressing("lens")
async def _(key: str) -> None:
    session = two_turns()
    session.looks = [looks()]
    async with opened(key, LensScreen, session) as pilot:
        await until(pilot, lambda: "from 90%" in screen_text(pilot))
        await pilot.press("escape")


# At a message


@asynccontextmanager
async def chosen(text: str, by: tuple[str, ...]) -> AsyncIterator[Pilot[int]]:
    async with chat(two_turns()) as pilot:
        for key in by:
            await pilot.press(key)
            await until(pilot, lambda: isinstance(pilot.app.focused, Choosable))
        await is_chosen(pilot, text)
        yield pilot


async def is_chosen(pilot: Pilot[int], text: str) -> None:
    def text_of_focused() -> str:
        focused = pilot.app.focused
        if not isinstance(focused, UserMessage | FinishedAnswer):
            return ""
        return focused.message.text

    await until(pilot, lambda: text_of_focused() == text)


@pressing("edit")
async def _(key: str) -> None:
    async with chosen("second", by=("alt+up", "alt+up")) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: prompt(pilot).has_focus)
        assert prompt(pilot).text == "second" and screen(pilot).turns.is_editing


@pressing("up")
async def _(key: str) -> None:
    async with chosen("second", by=("alt+up", "alt+up")) as pilot:
        await pilot.press(key)
        await is_chosen(pilot, "One.")


@pressing("down")
async def _(key: str) -> None:
    async with chosen("One.", by=("alt+up", "alt+up", "alt+up")) as pilot:
        await pilot.press(key)
        await is_chosen(pilot, "second")


@pressing("back")
async def _(key: str) -> None:
    async with chosen("second", by=("alt+up", "alt+up")) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: prompt(pilot).has_focus)
        assert prompt(pilot).text == ""


# In the list


@asynccontextmanager
async def listed(session: FakeSession) -> AsyncIterator[Pilot[int]]:
    """The list has the keys, and the latest conversation is highlighted."""
    async with chat(session, NARROW) as pilot:
        await pilot.press("ctrl+b")
        await until(pilot, lambda: screen(pilot).query_one(OptionList).highlighted is not None)
        yield pilot


@pressing("rename")
async def _(key: str) -> None:
    session = several_talks()
    async with listed(session) as pilot:
        await pilot.press(key)
        await shows(pilot, Ask)
        await pilot.press("home", *"My ", "enter")
        await until(pilot, lambda: latest_of(session.history).title == "My Foxes in the snow")


@pressing("delete")
async def _(key: str) -> None:
    session = several_talks()
    async with listed(session) as pilot:
        await pilot.press(key)
        await shows(pilot, Confirm)
        await pilot.press("y")
        await until(pilot, lambda: len(session.history.conversations()) == 3)
        assert conversation(pilot) == []


@pressing("duplicate")
async def _(key: str) -> None:
    session = several_talks()
    async with listed(session) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: latest_of(session.history).title == "Foxes in the snow (copy)")


@pressing("pin")
async def _(key: str) -> None:
    session = several_talks()
    async with listed(session) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: session.history.conversations()[0].pinned)


@pressing("search")
async def _(key: str) -> None:
    async with listed(several_talks()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.focused is screen(pilot).sidebar.query_one(Input))


@pressing("leave_list")
async def _(key: str) -> None:
    async with listed(several_talks()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: prompt(pilot).has_focus)
        assert not screen(pilot).sidebar.display


# In the search


@asynccontextmanager
async def searched() -> AsyncIterator[Pilot[int]]:
    """An o is in all three of the messages, the last of which is shown."""
    texts = ("user", "fox"), ("assistant", "One."), ("user", "and two")
    session = FakeSession(earlier=[FakeMessage(*each) for each in texts])
    async with chat(session) as pilot:
        await pilot.press("ctrl+f", "o")
        await until(pilot, lambda: text_of(pilot, "#matches") == "3 of 3")
        yield pilot


@pressing("find_before")
async def _(key: str) -> None:
    async with searched() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: text_of(pilot, "#matches") == "2 of 3")


@pressing("find_after")
async def _(key: str) -> None:
    async with searched() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: text_of(pilot, "#matches") == "1 of 3")


@pressing("close_find")
async def _(key: str) -> None:
    async with searched() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: prompt(pilot).has_focus)
        assert not screen(pilot).query_one(FindBar).display
        assert not screen(pilot).query(f".{FOUND}")


# In the settings, the models, the help


@asynccontextmanager
async def opened(
    key: str, kind: type[Screen], session: FakeSession | None = None
) -> AsyncIterator[Pilot[int]]:
    async with chat(session or FakeSession()) as pilot:
        await pilot.press(key)
        await shows(pilot, kind)
        yield pilot
        await shows_chat(pilot)
        assert prompt(pilot).has_focus


@pressing("cancel_settings")
async def _(key: str) -> None:
    session = FakeSession()
    async with opened("f2", SettingsScreen, session) as pilot:
        await pilot.press(*"Be kind.", key)
    assert session.settings.system == ""


@pressing("apply_settings")
async def _(key: str) -> None:
    session = FakeSession()
    async with opened("f2", SettingsScreen, session) as pilot:
        await pilot.press(*"Be kind.", key)
    assert session.settings.system == "Be kind."


@pressing("cancel_models")
async def _(key: str) -> None:
    async with opened("f3", ModelScreen) as pilot:
        await pilot.press(key)


@asynccontextmanager
async def downloads() -> AsyncIterator[tuple[Pilot[int], DownloadScreen]]:
    """The list of models to download."""
    async with opened("f3", ModelScreen) as pilot:
        await pilot.press("d")
        await shows(pilot, DownloadScreen)
        screen = pilot.app.screen
        assert isinstance(screen, DownloadScreen)
        await until(pilot, lambda: screen.query_one(Input).has_focus)
        yield pilot, screen


@pressing("download_models")
async def _(key: str) -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press("f3")
        await shows(pilot, ModelScreen)
        await pilot.press(key)
        await shows(pilot, DownloadScreen)


@pressing("pause_download")
async def _(key: str) -> None:
    async with downloads() as (pilot, _):
        await pilot.press(key)
        await shows(pilot, ModelScreen)
        await pilot.press("escape")


@pressing("download_after")
async def _(key: str) -> None:
    async with downloads() as (pilot, screen):
        table = screen.query_one(DataTable)
        await pilot.press(key)
        await until(pilot, lambda: table.cursor_row == 1)
        await pilot.press("escape", "escape")


@pressing("download_before")
async def _(key: str) -> None:
    async with downloads() as (pilot, screen):
        table = screen.query_one(DataTable)
        await pilot.press("down", key)
        await until(pilot, lambda: table.cursor_row == 0)
        await pilot.press("escape", "escape")


@pressing("close_figures")
async def _(key: str) -> None:
    async with opened("f7", FiguresScreen) as pilot:
        await pilot.press(key)


@asynccontextmanager
async def answer_figures(*before: str) -> AsyncIterator[Pilot[int]]:
    """Those of three answers, after some keys."""
    async with opened("f7", FiguresScreen, timed_talk()) as pilot:
        await until(pilot, lambda: "All answers" in screen_text(pilot))
        await pilot.press(*before)
        yield pilot
        await pilot.press("escape")


@pressing("figures_before")
async def _(key: str) -> None:
    async with answer_figures() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: "Answer 3" in screen_text(pilot))
        await pilot.press(key)
        await until(pilot, lambda: "Answer 2" in screen_text(pilot))


@pressing("figures_after")
async def _(key: str) -> None:
    async with answer_figures() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: "Answer 1" in screen_text(pilot))
        await pilot.press(key)
        await until(pilot, lambda: "Answer 2" in screen_text(pilot))


@pressing("figures_all")
async def _(key: str) -> None:
    async with answer_figures("right", "right") as pilot:
        await until(pilot, lambda: "Answer 2" in screen_text(pilot))
        await pilot.press(key)
        await until(pilot, lambda: "All answers" in screen_text(pilot))


@pressing("figures_scale")
async def _(key: str) -> None:
    async with answer_figures() as pilot:
        assert " 0.0 ms┤" in screen_text(pilot)
        await pilot.press(key)
        await until(pilot, lambda: " 0.0 ms┤" not in screen_text(pilot))


@pressing("export_figures")
async def _(key: str) -> None:
    async with answer_figures() as pilot:
        file = state_folder() / "times.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        await pilot.press(key)
        await shows(pilot, Ask)
        pilot.app.screen.query_one(Input).value = str(file)
        await pilot.press("enter")
        await until(pilot, lambda: "Exported" in screen_text(pilot))
        assert file.read_text().startswith("answer,model,run,phase,")


@pressing("close_help")
async def _(key: str) -> None:
    async with opened("f1", HelpScreen) as pilot:
        await pilot.press(key)


# At the start


@pressing("close_welcome")
async def _(key: str) -> None:
    marker = state_folder() / "first"
    preferences = Preferences(welcome_marker=marker)
    async with chat(FakeSession(), preferences=preferences, is_first=True) as pilot:
        await pilot.press(key)
        await shows_chat(pilot)
        assert marker.exists()


@pressing("cancel_loading")
async def _(key: str) -> None:
    app = app_of(SCENES["loading"], Path())
    async with app.run_test() as pilot:
        await shows(pilot, LoadingScreen)
        await pilot.press(key)
        await until(pilot, lambda: app.return_value is not None)
    app.close()
    assert app.return_value == 130


# In the token lens


async def _moved(key: str, before: tuple[str, ...], place: int) -> None:
    async with looking() as pilot:
        await pilot.press(*before, key)
        await until(pilot, lambda: pilot.app.screen.query_one(LensText).pointed == place)


@asynccontextmanager
async def looking() -> AsyncIterator[Pilot[int]]:
    """The lens on the second of two answers: words in two lines, the third a surprise."""
    session = two_turns()
    session.scripts = [script(" more")]
    session.looks = [looks(), looks()]
    async with opened("f4", LensScreen, session) as pilot:
        await until(pilot, lambda: len(pilot.app.screen.query_one(LensText).tokens) == len(WORDS))
        await until(pilot, lambda: "6 tokens" in screen_text(pilot))
        yield pilot
        if isinstance(pilot.app.screen, LensScreen):
            pilot.app.screen.dismiss()


def _moving(action: str, before: tuple[str, ...], place: int) -> None:
    async def check(key: str) -> None:
        await _moved(key, before, place)

    pressing(action)(check)


for _action, _before, _place in (
    ("lens_left", ("right", "right"), 1),
    ("lens_right", (), 1),
    ("lens_up", ("end",), 1),
    ("lens_down", (), 4),
    ("lens_page_up", ("end",), 1),
    ("lens_page_down", (), 4),
    ("lens_first", ("end",), 0),
    ("lens_last", (), 5),
    ("lens_surprise", (), 2),
):
    _moving(_action, _before, _place)


def _branching(number: int) -> None:
    @pressing(f"lens_{number}")
    async def _(key: str) -> None:
        async with looking() as pilot:
            session = screen(pilot).session
            assert isinstance(session, FakeSession)
            await pilot.press(key)
            await shows_chat(pilot)
            await until(pilot, lambda: not is_answering(pilot))
            assert [ids for _, ids, _ in session.branches] == [[99 + number]]


for _number in range(1, 6):
    _branching(_number)


@pressing("lens_choose")
async def _(key: str) -> None:
    async with looking() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen.query_one(OptionList).has_focus)


@pressing("lens_switch")
async def _(key: str) -> None:
    async with looking() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: "the usual time" in screen_text(pilot))


@pressing("lens_previous")
async def _(key: str) -> None:
    async with looking() as pilot:
        await pilot.press(key)
        await until(pilot, lambda: "answer 1 of 2" in screen_text(pilot))


@pressing("lens_next")
async def _(key: str) -> None:
    async with looking() as pilot:
        session = screen(pilot).session
        assert isinstance(session, FakeSession)
        session.looks.append(looks())
        await pilot.press("p")
        await until(pilot, lambda: "answer 1 of 2" in screen_text(pilot))
        await pilot.press(key)
        await until(pilot, lambda: "answer 2 of 2" in screen_text(pilot))


@pressing("lens_leave")
@pressing("lens_close")
async def _(key: str) -> None:
    async with looking() as pilot:
        await pilot.press(key)
        await shows_chat(pilot)


# At the end


@pressing("leave_now")
async def _(key: str) -> None:
    async with chat(KeepingCache()) as pilot:
        await pilot.press("ctrl+q")
        await shows(pilot, LeavingScreen)
        assert pilot.app.return_value is None
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.return_value == 0)


# Where something is asked


@pressing("yes")
async def _(key: str) -> None:
    async with opened("alt+d", Confirm, session := two_turns()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: len(session.messages) == 2)


@pressing("no")
async def _(key: str) -> None:
    async with opened("alt+d", Confirm, session := two_turns()) as pilot:
        await pilot.press(key)
    assert len(session.messages) == 4


@pressing("previous_button")
async def _(key: str) -> None:
    async with opened("alt+d", Confirm, two_turns()) as pilot:
        await pilot.press("tab")
        await until(pilot, lambda: pilot.app.screen.query_one("#yes", Button).has_focus)
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen.query_one("#no", Button).has_focus)
        await pilot.press("escape")


@pressing("next_button")
async def _(key: str) -> None:
    async with opened("alt+d", Confirm, two_turns()) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen.query_one("#yes", Button).has_focus)
        await pilot.press("escape")


@pressing("leave_as_it_is")
async def _(key: str) -> None:
    session = several_talks()
    async with listed(session) as pilot:
        await pilot.press("r")
        await shows(pilot, Ask)
        await pilot.press("x", key)
        await shows_chat(pilot)
    assert latest_of(session.history).title == "Foxes in the snow"
