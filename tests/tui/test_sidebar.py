"""The list of conversations: by day, searched, opened, renamed, duplicated, deleted."""

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widget import Widget
from textual.widgets import Input, OptionList

from llama_cpu.history.store import History
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.message_input import MessageInput
from llama_cpu.tui.widgets.sidebar import NOTHING_FOUND, NOTHING_YET, Sidebar, day
from tests.support.conversations import id_of
from tests.tui.driving import (
    NARROW,
    WIDE,
    ask,
    ask_and_wait,
    chat,
    conversation,
    is_answering,
    prompt,
    screen,
    screen_text,
    until,
)
from tests.tui.fakes import FakeSession, script, tokens
from tests.tui.scenes import several_talks

DAY = 24 * 3600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    """Three conversations, one of them of the day before."""
    with History(path) as history:
        for title in ("Foxes", "Geese", "Hares"):
            conversation = history.create("Test model").id
            user = history.add_message(conversation, None, "user", f"{title} in the snow")
            answer = history.begin_answer(conversation, user.id, "Test model")
            history.save_answer(answer.id, f"All about {title.lower()}.", [1])
            history.save_answer(answer.id, f"All about {title.lower()}.", [1])
        with history._writing():
            history._connection.execute(
                "UPDATE conversations SET updated = updated - ? WHERE id = 1", (DAY,)
            )
        history.close()
    with History(path) as history:
        yield history


def rows(pilot) -> list[str]:
    listed = screen(pilot).query_one(OptionList)
    return [str(option.prompt).strip() for option in listed.options]


def titles(pilot) -> list[str]:
    listed = screen(pilot).query_one(OptionList)
    return [str(option.prompt).strip() for option in listed.options if option.id]


async def until_first_is(pilot, title: str) -> None:
    await until(pilot, lambda: titles(pilot)[0] == title)


async def until_count_is(pilot, count: int) -> None:
    await until(pilot, lambda: len(titles(pilot)) == count)


async def open_list(pilot) -> None:
    await pilot.press("ctrl+b")
    await until(pilot, lambda: screen(pilot).query_one(OptionList).highlighted is not None)


async def test_by_day(history: History) -> None:
    async with chat(FakeSession([], [], history)) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 5)
        assert screen(pilot).sidebar.display
        assert rows(pilot) == [
            "Today", "Hares in the snow", "Geese in the snow", "Yesterday", "Foxes in the snow",
        ]  # fmt: skip
        assert "Geese in the snow" in screen_text(pilot)
        assert prompt(pilot).has_focus


def test_days() -> None:
    today = datetime.date.today()
    assert day(today) == "Today"
    assert day(today - datetime.timedelta(days=1)) == "Yesterday"
    assert day(datetime.date(2024, 3, 5)) == "5 March 2024"


async def test_hidden_until_there_is_something_to_list() -> None:
    async with chat(FakeSession([script("One.")]), WIDE) as pilot:
        await ask_and_wait(pilot, "first")
        assert not screen(pilot).sidebar.display
        await pilot.press("ctrl+b")
        await until(pilot, lambda: titles(pilot) == ["▸ first"])


async def test_the_list_never_has_the_focus_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    focused: list[type] = []
    set_focus = ChatScreen.set_focus

    def noted(screen: ChatScreen, widget: Widget | None, *rest: bool, **more: bool) -> None:
        focused.append(type(widget))
        set_focus(screen, widget, *rest, **more)

    monkeypatch.setattr(ChatScreen, "set_focus", noted)
    async with chat(several_talks(), WIDE):
        assert set(focused) == {MessageInput}


async def test_nothing_to_list() -> None:
    async with chat(FakeSession([])) as pilot:
        await pilot.press("ctrl+b")
        await until(pilot, lambda: rows(pilot) == [NOTHING_YET])
        await pilot.press("enter", "r", "d", "c")  # do nothing
        await pilot.press("ctrl+b")
        assert not screen(pilot).sidebar.display and prompt(pilot).has_focus


async def test_over_the_conversation_on_a_narrow_screen(history: History) -> None:
    async with chat(FakeSession([], [], history), NARROW) as pilot:
        sidebar, left = screen(pilot).sidebar, screen(pilot).query_one("#left")
        assert not sidebar.display
        await open_list(pilot)
        assert sidebar.region.x == left.region.x == 0 and left.region.width == 80
        assert "Geese in the snow" in screen_text(pilot)
        await pilot.press("escape")
        assert not sidebar.display and prompt(pilot).has_focus
        await pilot.resize_terminal(*WIDE)
        await until(pilot, lambda: sidebar.display and left.region.x == sidebar.region.right)
        await pilot.resize_terminal(*NARROW)
        await until(pilot, lambda: not sidebar.display)


async def test_the_key_goes_to_the_list_and_then_hides_it(history: History) -> None:
    async with chat(FakeSession([], [], history)) as pilot:
        await until(pilot, lambda: screen(pilot).sidebar.display)
        await open_list(pilot)
        assert screen(pilot).query_one(OptionList).has_focus
        await pilot.press("ctrl+b")
        assert not screen(pilot).sidebar.display and prompt(pilot).has_focus
        await open_list(pilot)
        await pilot.press("escape")
        assert screen(pilot).sidebar.display and prompt(pilot).has_focus


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_open(history: History, size: tuple[int, int]) -> None:
    session = FakeSession([script("More.")], [], history)
    async with chat(session, size) as pilot:
        await open_list(pilot)
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: len(conversation(pilot)) > 1 and not is_answering(pilot))
        assert conversation(pilot)[:2] == ["You\nFoxes in the snow", "All about foxes."]
        assert prompt(pilot).has_focus and screen(pilot).sidebar.display == (size == WIDE)
        await ask_and_wait(pilot, "More?")
        latest = history.latest()
        assert latest and latest.id == 1 and latest.message_count == 4
        await open_list(pilot)
        await until(pilot, lambda: titles(pilot)[0] == "▸ Foxes in the snow")


async def test_open_while_an_answer_is_written(history: History) -> None:
    session = FakeSession([[*tokens("Once upon"), threading.Event()]], [], history)
    async with chat(session) as pilot:
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1:] == ["Once upon"])
        story = id_of(session.conversation)
        await open_list(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: conversation(pilot)[0] == "You\nHares in the snow")
        await until(pilot, lambda: not is_answering(pilot))
        assert [each.text for each in history.path(story)] == ["A story", "Once upon"]


async def test_new_conversation_does_not_ask_as_nothing_is_lost(history: History) -> None:
    session = FakeSession([script("One."), script("Two.")], [], history)
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "first")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: conversation(pilot) == [] and not is_answering(pilot))
        assert not isinstance(pilot.app.screen, Confirm)
        await ask_and_wait(pilot, "second")
        await until(pilot, lambda: titles(pilot)[:2] == ["▸ second", "first"])


async def test_search(history: History) -> None:
    async with chat(FakeSession([], [], history)) as pilot:
        await open_list(pilot)
        await pilot.press("slash", *"about gee")
        await until(pilot, lambda: len(titles(pilot)) == 1)
        assert titles(pilot) == ["Geese in the snow\n  All about geese."]
        await pilot.press("enter", "enter")
        await until(pilot, lambda: len(conversation(pilot)) > 1 and not is_answering(pilot))
        assert conversation(pilot)[0] == "You\nGeese in the snow"
        await open_list(pilot)
        await pilot.press("slash", *"xyz")
        await until(pilot, lambda: rows(pilot) == [NOTHING_FOUND])
        await pilot.press("escape")
        await until(pilot, lambda: len(titles(pilot)) == 3)
        assert prompt(pilot).has_focus


async def test_rename(history: History) -> None:
    async with chat(FakeSession([], [], history)) as pilot:
        await open_list(pilot)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))
        assert history.get(3).title == "Hares in the snow"
        for title, shown in [("[b]Winter", "[b]Winter"), ("", "Hares in the snow")]:
            await pilot.press("r")
            await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
            pilot.app.screen.query_one(Input).value = title
            await pilot.press("enter")
            await until_first_is(pilot, shown)
            await until(pilot, lambda: not is_answering(pilot))
            assert history.get(3).title == shown


async def test_pinned_ones_come_first(history: History) -> None:
    async with chat(FakeSession([], [], history)) as pilot:
        await open_list(pilot)
        await until(pilot, lambda: len(rows(pilot)) == 5)
        await pilot.press("end", "p")
        await until(pilot, lambda: rows(pilot)[:2] == ["Pinned", "Foxes in the snow"])
        assert rows(pilot)[2:] == ["Today", "Hares in the snow", "Geese in the snow"]
        await pilot.press("p")
        await until(pilot, lambda: rows(pilot)[-1] == "Foxes in the snow")


async def test_duplicate(history: History) -> None:
    async with chat(FakeSession([], [], history)) as pilot:
        await open_list(pilot)
        await pilot.press("c")
        await until(pilot, lambda: len(titles(pilot)) == 4)
        assert titles(pilot)[0] == "Hares in the snow (copy)"
        await until(pilot, lambda: not is_answering(pilot))


async def test_delete_asks(history: History) -> None:
    session = FakeSession([], [], history)
    async with chat(session) as pilot:
        await open_list(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: len(conversation(pilot)) > 1 and not is_answering(pilot))
        await open_list(pilot)
        for key, count in [("n", 3), ("y", 2)]:
            await pilot.press("d")
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            assert "Hares" in screen_text(pilot) and "2 messages" in screen_text(pilot)
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))
            await until(pilot, lambda: not is_answering(pilot))
            await until_count_is(pilot, count)
        assert conversation(pilot) == [] and session.conversation.stored is None
        assert [each.title[:5] for each in history.conversations()] == ["Geese", "Foxes"]


async def test_what_another_window_has_deleted(history: History, path: Path) -> None:
    with History(path) as other:
        async with chat(FakeSession([], [], history)) as pilot:
            await open_list(pilot)
            other.delete(3)
            await pilot.press("enter")
            await until(pilot, lambda: "no conversation 3" in " ".join(conversation(pilot)))
            await until(pilot, lambda: not is_answering(pilot))
            await until(pilot, lambda: len(titles(pilot)) == 2)
            await open_list(pilot)
            other.delete(2)
            await pilot.press("c")
            await until(pilot, lambda: len(titles(pilot)) == 1)
            said = [notification.message for notification in pilot.app._notifications]
            assert said == ["There is no conversation 2."]


async def test_titles_are_data(path: Path) -> None:
    with History(path) as history:
        history.create("m", title="[red]\x1b[2J[/]")
        async with chat(FakeSession([], [], history)) as pilot:
            await until(pilot, lambda: "[red]␛[2J[/]" in screen_text(pilot))


async def test_the_app_is_left_while_the_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, leave = Sidebar._options, threading.Event()

    def slowly(sidebar: Sidebar, words: str):
        leave.wait(5)
        return read(sidebar, words)

    monkeypatch.setattr(Sidebar, "_options", slowly)
    async with chat(FakeSession([])) as pilot:
        screen(pilot).sidebar.show()
        await pilot.pause()
        await screen(pilot).sidebar.query_one(OptionList).remove()
        leave.set()
        await pilot.app.workers.wait_for_complete()
