"""Two windows on one history: each shows what the other one changes."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from llama_cpu.chat.conversation import GONE_ELSEWHERE
from llama_cpu.history.rows import State
from llama_cpu.history.store import History
from llama_cpu.tui.controllers.turn_actions import BOTH_KEPT, EDITED_IS_GONE
from llama_cpu.tui.screens import chat as chat_screen
from tests.support.conversations import id_of
from tests.tui.driving import (
    NARROW,
    ask,
    chat,
    conversation,
    is_answering,
    note,
    prompt,
    screen,
    until,
)
from tests.tui.fakes import FakeMessage, FakeSession, Step, script, tokens

TALK = [FakeMessage("user", "one"), FakeMessage("assistant", "two")]
SHOWN = ["You\none", "two"]


@pytest.fixture(autouse=True)
def watching_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_screen, "WATCH_SECONDS", 0.05)


@pytest.fixture
def histories(tmp_path: Path) -> Iterator[tuple[History, History]]:
    """That of the app, and that of another window."""
    path = tmp_path / "history.db"
    with History(path) as own, History(path) as other:
        yield own, other


@asynccontextmanager
async def window(
    own: History, scripts: list[list[Step]] | None = None, talk: list[FakeMessage] = TALK
) -> AsyncIterator[tuple[Pilot[int], FakeSession, int]]:
    session = FakeSession(scripts or [], talk, own)
    async with chat(session, NARROW) as pilot:
        yield pilot, session, id_of(session.conversation)


async def test_turns_appear_without_disturbing_what_is_typed(
    histories: tuple[History, History],
) -> None:
    own, other = histories
    async with window(own) as (pilot, session, talk):
        prompt(pilot).insert("I am typ")
        question = other.add_message(talk, session.conversation.line[-1].id, "user", "three")
        answer = other.begin_answer(talk, question.id, "Other model")
        other.save_answer(answer.id, "fo", [1])
        await until(pilot, lambda: conversation(pilot) == [*SHOWN, "You\nthree", "fo"])
        await pilot.press("alt+up")
        other.save_answer(answer.id, "four", [1, 2], state=State.COMPLETE)
        await until(pilot, lambda: conversation(pilot) == [*SHOWN, "You\nthree", "four"])
        chosen = screen(pilot).conversation_view.chosen
        assert chosen and chosen.id == answer.id
        await pilot.press("escape", "i", "n", "g")
        assert prompt(pilot).text == "I am typing"


async def test_another_answer_and_an_edit_are_alternatives(
    histories: tuple[History, History],
) -> None:
    own, other = histories
    async with window(own) as (pilot, session, talk):
        question, answer = session.conversation.line
        edited = other.add_message(talk, None, "user", "uno")
        other.add_message(talk, edited.id, "assistant", "dos")
        other.add_message(talk, question.id, "assistant", "zwei")
        await until(pilot, lambda: conversation(pilot) == ["You  ‹ 1/2 ›\none", "two"])
        assert len(session.conversation.alternatives(answer.id)) == 2
        await pilot.press("alt+right")
        await until(pilot, lambda: conversation(pilot) == ["You  ‹ 1/2 ›\none", "zwei"])
        await until(pilot, lambda: not is_answering(pilot))


async def test_what_is_scrolled_to_stays(histories: tuple[History, History]) -> None:
    own, other = histories
    roles = ("user", "assistant")
    talk = [FakeMessage(roles[n % 2], f"message {n}\n\nand more") for n in range(100)]
    async with window(own, talk=talk) as (pilot, session, talk_id):
        view = screen(pilot).conversation_view
        while view.query("Earlier"):
            await pilot.press("pageup")
            await pilot.pause()
        await pilot.press("pagedown")
        await pilot.pause()
        y = view.scroll_y
        last = session.conversation.line[-1].id
        other.add_message(talk_id, last, "user", "the end")
        await until(pilot, lambda: conversation(pilot)[-1] == "You\nthe end")
        assert view.scroll_y == y > 0 and len(conversation(pilot)) == 101


async def test_an_answer_being_written_here_is_not_disturbed(
    histories: tuple[History, History],
) -> None:
    own, other = histories
    go_on = threading.Event()
    scripts: list[list[Step]] = [[*tokens("Once upon"), go_on, *tokens(" a time")]]
    async with window(own, scripts) as (pilot, session, talk):
        before = session.conversation.line[-1].id
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        theirs = other.add_message(talk, before, "user", "three")
        other.add_message(talk, theirs.id, "assistant", "four")
        await pilot.pause(0.2)
        assert conversation(pilot) == [*SHOWN, "You\nA story", "Once upon"]
        go_on.set()
        mine = [*SHOWN, "You  ‹ 1/2 ›\nA story", "Once upon a time"]
        await until(pilot, lambda: conversation(pilot) == mine)
        await until(pilot, lambda: not is_answering(pilot))
        await pilot.pause(0.2)
        assert conversation(pilot) == mine
        assert len(own.tree(talk)[1]) == 6


async def test_a_message_during_their_answer_begins_a_branch(
    histories: tuple[History, History],
) -> None:
    own, other = histories
    async with window(own, [script("six")]) as (pilot, session, talk):
        theirs = other.add_message(talk, session.conversation.line[-1].id, "user", "three")
        answer = other.begin_answer(talk, theirs.id, "Other model")
        other.save_answer(answer.id, "fo", [1])
        await until(pilot, lambda: conversation(pilot)[-1] == "fo")
        await ask(pilot, "five")
        await until(pilot, lambda: conversation(pilot)[-1] == "six")
        await until(pilot, lambda: not is_answering(pilot))
        other.save_answer(answer.id, "four", [1, 2], state=State.COMPLETE)
        assert conversation(pilot) == [*SHOWN, "You\nthree", "fo", "You\nfive", "six"]
        copy = session.conversation.line[-3]
        assert copy.id != answer.id and (copy.state, list(copy.token_ids)) == (State.STOPPED, [1])
        assert other.path(talk, answer.id)[-1].text == "four"
        assert prompt(pilot).border_subtitle == BOTH_KEPT


async def test_deleted_turns_go_and_what_is_edited_there_is_kept(
    histories: tuple[History, History],
) -> None:
    own, other = histories
    talk = [*TALK, FakeMessage("user", "three"), FakeMessage("assistant", "four")]
    async with window(own, talk=talk) as (pilot, session, _):
        await pilot.press("alt+up", "enter", "!")
        other.delete_message(session.conversation.line[2].id)
        await until(pilot, lambda: conversation(pilot) == SHOWN)
        assert prompt(pilot).text == "four!" and note(pilot) == EDITED_IS_GONE
        assert not screen(pilot).turns.is_editing


async def test_a_deleted_conversation_stays_until_it_is_saved_again(
    histories: tuple[History, History],
) -> None:
    own, other = histories
    async with window(own, [script("four")]) as (pilot, _, talk):
        other.delete(talk)
        await until(pilot, lambda: conversation(pilot) == [*SHOWN, GONE_ELSEWHERE])
        await pilot.pause(0.2)
        assert other.conversations() == []
        await ask(pilot, "three")
        await until(pilot, lambda: conversation(pilot)[-1] == "four")
        await until(pilot, lambda: not is_answering(pilot))
        [saved] = other.conversations()
        assert [each.text for each in other.path(saved.id)] == ["one", "two", "three", "four"]


async def test_the_list_shows_their_conversations(histories: tuple[History, History]) -> None:
    own, other = histories

    def listed(pilot: Pilot[int]) -> str:
        options = screen(pilot).query_one("#conversations", OptionList).options
        return "\n".join(str(option.prompt) for option in options)

    async with window(own) as (pilot, _, talk):
        await pilot.press("ctrl+b")
        await until(pilot, lambda: "one" in listed(pilot))
        geese = other.create(title="Geese").id
        await until(pilot, lambda: "Geese" in listed(pilot))
        other.rename(talk, "Numbers")
        await until(pilot, lambda: "Numbers" in listed(pilot))
        listing = screen(pilot).query_one("#conversations", OptionList)
        assert listing.highlighted_option and listing.highlighted_option.id == str(talk)
        other.delete(geese)
        await until(pilot, lambda: "Geese" not in listed(pilot))


async def test_nothing_is_read_while_nothing_changes(
    histories: tuple[History, History], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = histories
    looks: list[bool] = []
    reads: list[None] = []

    def look() -> bool:
        looks.append(changed())
        return looks[-1]

    async with window(own, [script("four")]) as (pilot, session, _):
        changed = own.changed_elsewhere
        monkeypatch.setattr(own, "changed_elsewhere", look)
        monkeypatch.setattr(session.conversation, "news", lambda: reads.append(None))
        await ask(pilot, "three")  # this window's own changes
        await until(pilot, lambda: conversation(pilot)[-1] == "four")
        await until(pilot, lambda: not is_answering(pilot) and len(looks) > 3)
        assert not (any(looks) or reads)
        other.create()
        await until(pilot, lambda: len(reads) == 1)


def test_only_changes_of_others_count(histories: tuple[History, History]) -> None:
    own, other = histories
    own.create()
    assert not own.changed_elsewhere()
    other.create()
    assert own.changed_elsewhere() and not own.changed_elsewhere()
