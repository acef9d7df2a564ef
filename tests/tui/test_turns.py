"""Branches of a conversation at the keyboard: alternatives, edits, continued answers, copies."""

import asyncio
import re
import threading
from pathlib import Path

import pytest

from llama_cpu.chat.conversation import GONE
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Finished, StopReason
from llama_cpu.history.rows import State
from llama_cpu.history.store import History
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.tui.controllers import copying
from llama_cpu.tui.controllers.answering import UNFINISHED
from llama_cpu.tui.controllers.turn_actions import (
    EDITING,
    NO_ALTERNATIVES,
    NO_CODE,
    NOTHING_TO_CONTINUE,
    NOTHING_TO_COPY,
    NOTHING_TO_EDIT,
    VARIES,
    WRITES_ANOTHER,
)
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.message_views import Answer, FinishedAnswer, UserMessage
from tests.support.conversations import id_of, latest_of
from tests.tui.driving import (
    NARROW,
    ask,
    ask_and_wait,
    chat,
    conversation,
    is_answering,
    note,
    prompt,
    screen,
    screen_text,
    until,
)
from tests.tui.fakes import FakeMessage, FakeSession, script, tokens

CUT = [FakeMessage("user", "one"), FakeMessage("assistant", "two")]


def places(pilot) -> list[str]:
    """Which alternatives are shown, for each message."""
    widgets = screen(pilot).query("UserMessage, Answer, FinishedAnswer")
    return [each.place for each in widgets]  # type: ignore[attr-defined]


def cut_answer(state: State = State.CUT) -> FakeSession:
    """Whose last answer was not ended."""
    session = FakeSession([], CUT)
    answer = session.conversation.line[-1]
    session.history.save_answer(answer.id, "two", [7], [0.5], state=state)
    session.conversation.reload()
    return session


async def test_left_and_right_between_answers() -> None:
    session = FakeSession([script("Lyon."), script("Paris."), script("Nice.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Capital?")
        assert places(pilot) == ["", ""]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: places(pilot) == ["", "‹ 2/2 ›"])
        await until(pilot, lambda: not is_answering(pilot))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: places(pilot) == ["", "‹ 3/3 ›"])
        await until(pilot, lambda: not is_answering(pilot))
        assert "‹ 3/3 ›" in screen_text(pilot)
        for key, answer, place in [
            ("alt+left", "Paris.", "‹ 2/3 ›"),
            ("alt+left", "Lyon.", "‹ 1/3 ›"),
            ("alt+left", "Nice.", "‹ 3/3 ›"),
            ("alt+right", "Lyon.", "‹ 1/3 ›"),
        ]:
            await pilot.press(key)
            await until(pilot, lambda: not is_answering(pilot))
            assert conversation(pilot) == ["You\nCapital?", answer]
            assert places(pilot)[1] == place
        assert prompt(pilot).has_focus
        assert [message.text for message in session.messages] == ["Capital?", "Lyon."]


async def test_what_is_asked_next_follows_the_answer_that_is_shown() -> None:
    session = FakeSession([script("Lyon."), script("Paris."), script("Sure.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Capital?")
        await pilot.press("ctrl+r")
        await until(
            pilot,
            lambda: len(screen(pilot).session.conversation.line) == 2 and not is_answering(pilot),
        )
        await pilot.press("alt+left")
        await until(pilot, lambda: not is_answering(pilot))
        await ask_and_wait(pilot, "Sure?")
        assert conversation(pilot) == ["You\nCapital?", "Lyon.", "You\nSure?", "Sure."]
        await pilot.press("alt+left")
        await until(pilot, lambda: conversation(pilot) == ["You\nCapital?", "Paris."])
        await until(pilot, lambda: not is_answering(pilot))


async def test_without_alternatives() -> None:
    async with chat(FakeSession([], CUT)) as pilot:
        await pilot.press("alt+right")
        await until(
            pilot, lambda: prompt(pilot).border_subtitle == NO_ALTERNATIVES + WRITES_ANOTHER
        )


async def test_a_regenerated_answer_stopped_before_its_first_word() -> None:
    """The earlier answer is there again."""
    session = FakeSession([script("Lyon."), [threading.Event(), *tokens("never")]])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Capital?")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen(pilot).answering.is_answering)
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot)[:2] == ["You\nCapital?", "Lyon."]
        assert places(pilot) == ["", ""]


async def test_an_earlier_message_is_edited() -> None:
    session = FakeSession([script("One."), script("Two."), script("Three."), script("Four.")])
    async with chat(session) as pilot:
        for question in ("first", "second", "third"):
            await ask_and_wait(pilot, question)
        prompt(pilot).insert("a draft")
        await pilot.press(*["alt+up"] * 4)
        chosen = screen(pilot).focused
        assert isinstance(chosen, UserMessage) and chosen.message.text == "second"
        # Letters do nothing.
        await pilot.press("x", "up", "up", "up", "down", "down", "enter")
        assert prompt(pilot).has_focus and prompt(pilot).text == "second"
        assert prompt(pilot).border_title == EDITING
        await pilot.press("!", "enter")
        await until(pilot, lambda: conversation(pilot)[-1] == "Four.")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot) == ["You\nfirst", "One.", "You  ‹ 2/2 ›\nsecond!", "Four."]
        assert prompt(pilot).text == "a draft" and not prompt(pilot).border_title

        await pilot.press("alt+up", "alt+up", "alt+left")  # the chosen message's alternatives
        await until(pilot, lambda: conversation(pilot)[-1] == "Three.")
        await until(pilot, lambda: not is_answering(pilot))
        focused = screen(pilot).focused
        assert isinstance(focused, UserMessage) and focused.message.text == "second"
        await pilot.press("escape")
        assert prompt(pilot).has_focus


async def test_editing_is_cancelled() -> None:
    async with chat(FakeSession([], CUT)) as pilot:
        prompt(pilot).insert("a draft")
        await pilot.press("alt+up", "alt+up", "e", "!", "escape")
        assert prompt(pilot).text == "a draft" and not prompt(pilot).border_title
        assert conversation(pilot) == ["You\none", "two"]


async def test_after_the_last_message_comes_the_prompt() -> None:
    async with chat(FakeSession([], CUT)) as pilot:
        await pilot.press("alt+up")
        assert not prompt(pilot).has_focus
        await pilot.press("alt+down")
        assert prompt(pilot).has_focus
        await pilot.press("tab", "shift+tab")  # a message is reached by its key only
        assert prompt(pilot).has_focus


async def test_nothing_to_edit() -> None:
    async with chat(FakeSession([])) as pilot:
        await pilot.press("alt+up")
        await until(pilot, lambda: prompt(pilot).border_subtitle == NOTHING_TO_EDIT)


async def test_an_edit_that_is_too_long_can_be_edited_again() -> None:
    session = FakeSession([script("One."), [UserError("Too long.")], script("Two.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "first")
        await pilot.press("alt+up", "alt+up", "enter", "!", "enter")
        await until(pilot, lambda: conversation(pilot)[-1] == "Too long.")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot) == ["You\nfirst", "One.", "Too long."]
        assert (prompt(pilot).text, prompt(pilot).border_title) == ("first!", EDITING)
        await pilot.press("backspace", "?", "enter")
        await until(pilot, lambda: conversation(pilot) == ["You  ‹ 2/2 ›\nfirst?", "Two."])
        await until(pilot, lambda: not is_answering(pilot))


@pytest.mark.parametrize("state", [State.CUT, State.STOPPED])
async def test_a_cut_answer_is_marked_and_continued(state: State) -> None:
    session = cut_answer(state)
    session.scripts = [script(" three four")]
    async with chat(session) as pilot:
        assert conversation(pilot) == ["You\none", "two", UNFINISHED[state]]
        mark = {State.CUT: "cut off", State.STOPPED: "unfinished"}[state]
        assert mark in str(screen(pilot).query_one(FinishedAnswer).render())
        await pilot.press("ctrl+g")
        await until(pilot, lambda: conversation(pilot) == ["You\none", "two three four"])
        await until(pilot, lambda: not is_answering(pilot))
        assert session.messages[-1].text == "two three four"
        assert session.conversation.line[-1].state is State.COMPLETE and len(session.messages) == 2
        await pilot.press("ctrl+g")
        hint = NOTHING_TO_CONTINUE + WRITES_ANOTHER
        await until(pilot, lambda: prompt(pilot).border_subtitle == hint)
        session.settings = Settings(temperature=0)
        await pilot.press("ctrl+g")
        hint = NOTHING_TO_CONTINUE + VARIES
        await until(pilot, lambda: prompt(pilot).border_subtitle == hint)


async def test_a_message_without_an_answer_is_answered() -> None:
    async with chat(FakeSession([script("two")], CUT[:1])) as pilot:
        await pilot.press("ctrl+g")
        await until(pilot, lambda: conversation(pilot) == ["You\none", "two"])
        await until(pilot, lambda: not is_answering(pilot))


async def test_a_continued_answer_that_another_window_writes(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History(path) as history, History(path) as other:
        session = FakeSession([], CUT, history)
        answer = session.conversation.line[-1]
        history.save_answer(answer.id, "two", [], state=State.CUT)
        session.conversation.reload()
        async with chat(session) as pilot:
            other.continue_answer(answer.id)
            await pilot.press("ctrl+g")
            await until(pilot, lambda: "another window" in conversation(pilot)[-1])
            await until(pilot, lambda: not is_answering(pilot))
            assert conversation(pilot)[:2] == ["You\none", "two"]


async def test_delete_the_last_turn() -> None:
    session = FakeSession([script("One."), script("Two.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "first")
        await ask_and_wait(pilot, "second")
        for key, count in [("n", 4), ("y", 2), ("y", 0)]:
            await pilot.press("alt+d", "alt+d")
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            await pilot.press(key)
            await until(pilot, lambda: not is_answering(pilot))
            assert not isinstance(pilot.app.screen, Confirm)
            assert len(session.messages) == count == len(conversation(pilot))
        assert session.history.conversations() == []
        await pilot.press("alt+d")
        await until(pilot, lambda: not is_answering(pilot))
        assert not isinstance(pilot.app.screen, Confirm)


CODE = "Do:\n\n```sh\nls\n```\n\n- or\n  ```python\n  x = 1\n  y = 2\n  ```\n"


async def test_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(copying, "cache_folder", lambda: tmp_path / "cache")
    async with chat(FakeSession([script(CODE)])) as pilot:
        await pilot.press("alt+c")
        assert prompt(pilot).border_subtitle == NOTHING_TO_COPY
        await pilot.press("alt+k")
        assert prompt(pilot).border_subtitle == NO_CODE
        await ask_and_wait(pilot, "How?")
        file = tmp_path / "cache" / "copied.txt"
        for key, text, said in [
            ("alt+c", CODE, "Answer copied"),
            ("alt+k", "x = 1\ny = 2\n", "Code block 2 of 2 copied"),
            ("alt+k", "ls\n", "Code block 1 of 2 copied"),
            ("alt+k", "x = 1\ny = 2\n", "Code block 2 of 2 copied"),
        ]:
            await pilot.press(key)
            assert pilot.app.clipboard == text == file.read_text(encoding="utf-8")
            assert note(pilot) == f"{said}; also in {file}"
        assert file.stat().st_mode & 0o077 == 0


async def test_a_copy_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("not a folder")
    monkeypatch.setattr(copying, "cache_folder", lambda: tmp_path / "cache")
    async with chat(FakeSession([], CUT)) as pilot:
        await pilot.press("alt+c")
        assert pilot.app.clipboard == "two"
        assert note(pilot) == "Answer copied"


async def test_deleted_in_another_window(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History(path) as history, History(path) as other:
        session = FakeSession([script("One."), script("Two.")], [], history)
        async with chat(session) as pilot:
            await ask_and_wait(pilot, "first")
            other.delete(id_of(session.conversation))
            await ask_and_wait(pilot, "second")
            assert conversation(pilot) == ["You\nfirst", "One.", GONE]
            assert prompt(pilot).text == "second"
            await pilot.press("enter")
            await until(pilot, lambda: conversation(pilot)[-1] == "Two.")
            await until(pilot, lambda: not is_answering(pilot))
            kept = other.path(latest_of(other).id)
            assert [each.text for each in kept] == ["first", "One.", "second", "Two."]


async def test_a_full_disk_is_told_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise UserError("The disk is full.")

    with History(tmp_path / "history.db") as history:
        session = FakeSession([script("One."), script("Two.")], [], history)
        async with chat(session) as pilot:
            with monkeypatch.context() as disk:
                disk.setattr(history, "save_answer", full)
                await ask_and_wait(pilot, "first")
            assert "The disk is full." in conversation(pilot)[-1]
            assert conversation(pilot)[:2] == ["You\nfirst", "One."]
            await ask_and_wait(pilot, "second")
            assert conversation(pilot)[-2:] == ["You\nsecond", "Two."]
            assert len(history.path(latest_of(history).id)) == 4


def long_conversation(messages: int) -> FakeSession:
    roles = ("user", "assistant")
    return FakeSession(
        [script("The end.")],
        [FakeMessage(roles[n % 2], f"message {n}\n\nand more") for n in range(messages)],
    )


async def test_a_long_conversation_is_shown_from_its_end() -> None:
    session = long_conversation(300)
    async with chat(session, NARROW) as pilot:
        view = screen(pilot).conversation_view
        await until(pilot, lambda: view.scroll_y == view.max_scroll_y > 0)
        assert (
            conversation(pilot)[-1] == "message 299\n\nand more" and len(conversation(pilot)) < 50
        )
        assert "earlier messages" in str(view.query_one("Earlier").render())
        seen: set[int] = set()
        for _ in range(1000):
            seen |= {int(number) for number in re.findall(r"message (\d+)", screen_text(pilot))}
            if view.scroll_y == 0 and not view.query("Earlier"):
                break
            await pilot.press("pageup")
            await pilot.pause()
        assert seen == set(range(300))  # nothing was jumped over
        assert conversation(pilot)[0] == "You\nmessage 0\n\nand more"
        assert len(conversation(pilot)) == 300
        await ask_and_wait(pilot, "So?")
        assert conversation(pilot)[-1] == "The end." and len(conversation(pilot)) < 50
        await until(pilot, lambda: view.scroll_y == view.max_scroll_y)


async def test_choosing_goes_on_to_messages_that_are_not_shown_yet() -> None:
    async with chat(long_conversation(100), NARROW) as pilot:
        for number in range(99, -1, -1):
            await pilot.press("alt+up")
            await until(pilot, lambda: not is_answering(pilot))
            chosen = screen(pilot).focused
            assert isinstance(chosen, UserMessage | FinishedAnswer)
            assert chosen.message.text == f"message {number}\n\nand more"
        await pilot.press("alt+up")
        await until(pilot, lambda: not is_answering(pilot))
        assert screen(pilot).focused is chosen
        await pilot.press("enter")
        assert prompt(pilot).text == "message 0\n\nand more"


async def test_keys_during_an_answer_do_no_harm() -> None:
    session = FakeSession([[*tokens("Once upon"), threading.Event()]], CUT)
    async with chat(session) as pilot:
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        for key in ("ctrl+g", "alt+left", "alt+right", "alt+d"):
            await pilot.press(key)
        await asyncio.sleep(0)
        assert not isinstance(pilot.app.screen, Confirm)
        assert conversation(pilot) == ["You\none", "two", "You\nA story", "Once upon"]
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))
        assert [each.text for each in session.messages][2:] == ["A story", "Once upon"]


async def test_an_answer_that_grows_is_one_widget_in_the_end() -> None:
    async with chat(FakeSession([script("a\n\nb", Finished(StopReason.END))])) as pilot:
        await ask_and_wait(pilot, "Hi")
        answer = screen(pilot).query_one(Answer)
        assert (
            len(answer.query("Passage")) == 1
            and answer.message == screen(pilot).session.conversation.line[-1]
        )
