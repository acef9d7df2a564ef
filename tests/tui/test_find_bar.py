"""Search within the conversation."""

import threading

from textual.pilot import Pilot
from textual.widgets import Input

from llama_cpu.tui.occurrences import count, occurrences
from llama_cpu.tui.widgets.conversation_view import ConversationView
from llama_cpu.tui.widgets.find_bar import FindBar
from llama_cpu.tui.widgets.message_views import FinishedAnswer
from tests.tui.driving import NARROW, ask, chat, conversation, is_answering, prompt, screen, until
from tests.tui.fakes import FakeMessage, FakeSession, tokens

LONG = [
    FakeMessage("user" if n % 2 == 0 else "assistant", f"Message {n}, [b]Straße[/] *x{n % 3}*")
    for n in range(40)
]


def matches(pilot: Pilot[int]) -> str:
    return str(screen(pilot).query_one("#matches").render())


async def search(pilot: Pilot[int], words: str) -> None:
    await pilot.press("ctrl+f")
    await until(pilot, lambda: screen(pilot).query_one(FindBar).query_one(Input).has_focus)
    await pilot.press(*words)


async def test_matches_are_counted_and_scrolled_to() -> None:
    async with chat(FakeSession([], list(LONG)), NARROW) as pilot:
        view = screen(pilot).query_one(ConversationView)
        await search(pilot, "strasse")
        await until(pilot, lambda: matches(pilot) == "40 of 40")
        await pilot.press("enter", "up")
        await until(pilot, lambda: matches(pilot) == "38 of 40")
        await pilot.press("down", "down", "down", "shift+enter")
        await until(pilot, lambda: matches(pilot) == "2 of 40")
        await until(pilot, lambda: bool(view.query(".found")))
        found = view.query_one(".found")
        await until(pilot, lambda: view.region.overlaps(found.region))
        assert view.scroll_y < view.max_scroll_y
        await pilot.press("escape")
        assert not view.query(".found") and prompt(pilot).has_focus
        assert not screen(pilot).query_one(FindBar).display


async def test_what_is_not_there_and_nothing() -> None:
    async with chat(FakeSession([], list(LONG))) as pilot:
        await search(pilot, "zebra")
        await until(pilot, lambda: matches(pilot) == "not found")
        await pilot.press("enter", "down")
        await pilot.press(*["backspace"] * 5)
        await until(pilot, lambda: matches(pilot) == "")
        await pilot.press("escape", "ctrl+f")
        assert screen(pilot).query_one(FindBar).display


async def test_words_of_before_are_replaced() -> None:
    async with chat(FakeSession([], list(LONG))) as pilot:
        await search(pilot, "zebra")
        await pilot.press("escape")
        await search(pilot, "x1")
        await until(pilot, lambda: matches(pilot) == "13 of 13")


async def test_escape_closes_the_search_and_not_the_answer() -> None:
    async with chat(FakeSession([[*tokens("Once upon"), threading.Event()]])) as pilot:
        await ask(pilot, "Hi")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        await search(pilot, "hi")
        await until(pilot, lambda: matches(pilot) == "1 of 1")
        await pilot.press("escape")
        assert is_answering(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))


TWICE = [
    FakeMessage("user", "A fox, and a Fox?"),
    FakeMessage("assistant", "<think>A fox.</think>The **fox**:\n\n- fox\n" + "\nMore.\n" * 60),
]


def reversed_words(pilot: Pilot[int]) -> list[str]:
    """What is drawn as the present occurrence."""
    lines = screen(pilot)._compositor.render_strips()
    segments = [segment for line in lines for segment in line]
    return [s.text for s in segments if s.style and s.style.reverse and s.text.strip() == "fox"]


async def test_every_occurrence_is_counted_marked_and_walked_through() -> None:
    async with chat(FakeSession([], TWICE), NARROW) as pilot:
        await search(pilot, "fox")
        await until(pilot, lambda: matches(pilot) == "5 of 5")
        await until(pilot, lambda: reversed_words(pilot) == ["fox"])  # far above the end
        shown = screen(pilot).query_one(FinishedAnswer)
        assert "A fox." not in str(shown.render())
        await pilot.press("up", "up")  # in the thinking, which unfolds
        await until(pilot, lambda: matches(pilot) == "3 of 5")
        await until(pilot, lambda: "A fox." in str(shown.render()))
        await until(pilot, lambda: reversed_words(pilot) == ["fox"])
        await pilot.press("escape")
        await until(pilot, lambda: reversed_words(pilot) == [])


def test_occurrences() -> None:
    text = "Die Straße, STRASSE, strasse"
    assert [text[a:b] for a, b in occurrences(text, "strasse")] == ["Straße", "STRASSE", "strasse"]
    assert occurrences("aaa", "AA") == [(0, 2)]
    assert occurrences("x", "") == occurrences("", "x") == []
    assert count("assistant", "**fo**x [fox](http://fox)", "fox") == 3
    assert count("user", "**fo**x", "fox") == 0
