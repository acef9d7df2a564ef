"""The token lens on the screen: moving over tokens, what is told of each, and branches."""

import threading

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from llama_cpu.chat.lens import Candidate, LensPart, LensToken
from llama_cpu.errors import UserError
from llama_cpu.tui.controllers.lens import NO_ANSWER, STILL_ANSWERING
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.lens import EMPTY, NOT_ITS_TOKENS, LensScreen
from llama_cpu.tui.widgets.lens_shades import UNKNOWN, by_probability, by_time
from llama_cpu.tui.widgets.lens_text import LensText
from llama_cpu.tui.widgets.message_views import UserMessage
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
from tests.tui.fakes import END, FakeMessage, FakeSession, script, tokens
from tests.tui.lens_words import WORDS, looks, token


def lens(pilot: Pilot[int]) -> LensScreen:
    screen = pilot.app.screen
    assert isinstance(screen, LensScreen)
    return screen


def text(pilot: Pilot[int]) -> LensText:
    return lens(pilot).query_one(LensText)


def told(pilot: Pilot[int]) -> str:
    """What is said of the token."""
    return str(lens(pilot).query_one("#token", Static).render())


def note(pilot: Pilot[int]) -> str:
    """What is said above the answer."""
    return str(lens(pilot).query_one("#lens-note", Static).render())


def cursor(pilot: Pilot[int]) -> int:
    return text(pilot)._cursor


def title(pilot: Pilot[int]) -> str:
    return str(lens(pilot).query_one("#about", Static).render())


async def open_lens(pilot: Pilot[int], count: int = len(WORDS)) -> None:
    await pilot.press("f4")
    await until(pilot, lambda: isinstance(pilot.app.screen, LensScreen))
    await until(pilot, lambda: len(text(pilot).tokens) == count)
    await until(pilot, lambda: "waiting" not in title(pilot))


async def press(pilot: Pilot[int], *keys: str) -> None:
    await pilot.press(*keys)
    await pilot.pause()


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_the_answer_and_its_tokens_are_shown(size: tuple[int, int]) -> None:
    session = FakeSession([script("The cat sat")], looks=[looks()])
    async with chat(session, size) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        assert "6 tokens" in title(pilot)
        shown = screen_text(pilot)
        assert "The cat sat.↵" in shown
        assert "Then it" in shown
        assert "1   20.0%" in shown
        assert "from 90%" in shown
        assert session.looked_at == [session.conversation.line[-1]]


async def test_keys_move_over_the_tokens() -> None:
    async with chat(FakeSession([script("Hi")], looks=[looks()])) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        steps = [("right", 2), ("down", 5), ("left", 4), ("home", 1), ("left", 1), ("end", 6)]
        steps += [("right", 6), ("up", 2), ("s", 3), ("s", 4), ("s", 5), ("s", 3)]
        steps += [("pagedown", 6), ("pageup", 2)]
        for key, place in steps:
            await press(pilot, key)
            assert f" {place} of 6" in told(pilot), key


async def test_the_mouse_moves_over_the_tokens() -> None:
    async with chat(FakeSession([script("Hi")], looks=[looks()])) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        await pilot.hover(LensText, offset=(4, 0))
        await until(pilot, lambda: "2 of 6" in told(pilot))
        assert cursor(pilot) == 0
        await pilot.hover("#token")
        await until(pilot, lambda: "1 of 6" in told(pilot))
        await pilot.click(LensText, offset=(1, 1))
        assert cursor(pilot) == 4
        await pilot.hover("#token")
        assert "5 of 6" in told(pilot)
        await pilot.click(LensText, offset=(60, 8))  # where nothing is
        assert cursor(pilot) == 4


async def test_what_is_told_of_is_what_branches() -> None:
    """Also where the mouse is at another token than the cursor."""
    session = FakeSession([script("Hi"), script(" there")], looks=[looks(), looks()])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        await pilot.hover(LensText, offset=(4, 0))
        await until(pilot, lambda: "2 of 6" in told(pilot))
        await press(pilot, "enter")
        assert cursor(pilot) == 1 and lens(pilot).query_one(OptionList).has_focus
        await press(pilot, "escape")
        await pilot.hover(LensText, offset=(9, 0))
        await until(pilot, lambda: "3 of 6" in told(pilot))
        await press(pilot, "1")
        await until(pilot, lambda: not is_answering(pilot))
        assert session.branches[0][1] == [0, 1, 120]


async def test_times_that_are_not_known_are_told() -> None:
    some = [token(0, "Hi", seconds=None), token(1, " you")]
    async with chat(FakeSession([script("Hi")], looks=[[LensPart(1, 1, tuple(some))]])) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot, count=2)
        assert " unknown " not in screen_text(pilot)
        await press(pilot, "t")
        assert " unknown " in screen_text(pilot)
        assert text(pilot)._shades == [UNKNOWN, 0]


async def test_the_key_pressed_twice_at_once() -> None:
    async with chat(FakeSession([script("Hi")], looks=[looks()])) as pilot:
        await ask_and_wait(pilot, "hi")
        screen(pilot).action_lens()
        screen(pilot).action_lens()
        await until(pilot, lambda: isinstance(pilot.app.screen, LensScreen))
        await press(pilot, "f4")
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        assert len(pilot.app.screen_stack) == 2


async def test_by_time_and_back() -> None:
    async with chat(FakeSession([script("Hi")], looks=[looks()])) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        await press(pilot, "t")
        assert text(pilot)._shades == by_time(WORDS)
        assert "the usual time" in screen_text(pilot)
        await press(pilot, "t")
        assert text(pilot)._shades == by_probability(WORDS)


async def test_without_colour_the_cursor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with chat(FakeSession([script("Hi")], looks=[looks()])) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        await press(pilot, "right")
        [line] = [
            strip
            for strip in pilot.app.screen._compositor.render_strips()
            if "The cat" in strip.text
        ]
        reversed_text = [
            segment.text for segment in line if segment.style and segment.style.reverse
        ]
        underlined = [s.text for s in line if s.style and s.style.underline]
        assert reversed_text == [" cat"]
        assert underlined == [" sat", ".↵"]


@pytest.mark.parametrize("how", ["digit", "enter", "click"])
async def test_an_alternative_branches_the_conversation(how: str) -> None:
    session = FakeSession([script("The cat sat"), script(" runs")], looks=[looks()])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "hi")
        first = session.conversation.line[-1]
        await open_lens(pilot)
        await press(pilot, "right", "right")
        if how == "digit":
            await press(pilot, "2")
        elif how == "enter":
            await press(pilot, "enter", "down", "enter")
        else:
            await pilot.click(OptionList, offset=(3, 1))
        await until(pilot, lambda: not is_answering(pilot))
        assert session.branches == [(first, [0, 1, 121], [0.001, 0.02, 0.02])]
        assert session.conversation.line[-1].text.endswith(" runs")
        assert len(session.conversation.alternatives(first.id)) == 2
        assert conversation(pilot)[-1].endswith("runs")
        assert "reading" not in screen_text(pilot)
        assert len(conversation(pilot)) == 2
        await pilot.press("alt+left")
        await until(pilot, lambda: conversation(pilot)[-1] == "The cat sat")


async def test_a_branch_that_ends_there_is_not_continued() -> None:
    ending = token(0, "The")
    ending = LensToken(
        0, "The", "The", ending.logprob, 1, (Candidate(END, "</s>", -1.0, ends=True),), seconds=None
    )
    session = FakeSession([script("The")], looks=[[LensPart(1, 1, (ending,))]])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot, count=1)
        assert "the end" in screen_text(pilot)
        await press(pilot, "5")  # there is no such alternative
        assert isinstance(pilot.app.screen, LensScreen)
        await press(pilot, "1")
        await until(pilot, lambda: not is_answering(pilot))
        assert session.branches[0][1:] == ([END], [])
        assert len(session.conversation.alternatives(session.conversation.line[-1].id)) == 2


async def test_a_branch_that_cannot_be_kept_is_told() -> None:
    session = FakeSession([script("The cat")], looks=[looks()])
    session.branch_error = UserError("It was deleted in another window.")
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        await press(pilot, "1")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot)[-2:] == ["The cat", "It was deleted in another window."]


async def test_leaving_stops_the_model() -> None:
    waiting = threading.Event()
    session = FakeSession([script("The cat")], looks=[[LensPart(0, 9), waiting]])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "hi")
        await press(pilot, "f4")
        await until(pilot, lambda: "reading 0 of 9" in title(pilot))
        await press(pilot, "right", "enter", "1", "s")  # nothing to move over yet
        await press(pilot, "escape")
        await until(pilot, lambda: prompt(pilot).has_focus)
        # The model's thread is free again.
        session.scripts.append(script("Yes"))
        await ask_and_wait(pilot, "and?")
        assert conversation(pilot)[-1] == "Yes"


async def test_escape_goes_back_step_by_step() -> None:
    async with chat(FakeSession([script("Hi")], looks=[looks()])) as pilot:
        await ask_and_wait(pilot, "hi")
        await open_lens(pilot)
        await press(pilot, "enter")
        assert lens(pilot).query_one(OptionList).has_focus
        await press(pilot, "escape")
        assert text(pilot).has_focus
        await press(pilot, "f4")
        assert not isinstance(pilot.app.screen, LensScreen)


async def test_other_answers() -> None:
    earlier = [
        FakeMessage("user", "one"),
        FakeMessage("assistant", "first"),
        FakeMessage("user", "two"),
        FakeMessage("assistant", "second"),
    ]
    short = [LensPart(1, 1, WORDS[:2])]
    session = FakeSession(earlier=earlier, looks=[looks(), list(short), looks()])
    async with chat(session) as pilot:
        await open_lens(pilot)
        assert "answer 2 of 2" in title(pilot)
        await press(pilot, "n")  # there is none after it
        await press(pilot, "p")
        await until(pilot, lambda: len(text(pilot).tokens) == 2)
        assert "answer 1 of 2" in title(pilot)
        await until(pilot, lambda: note(pilot) == NOT_ITS_TOKENS)
        await press(pilot, "n")
        await until(pilot, lambda: len(text(pilot).tokens) == 6)
        assert [answer.text for answer in session.looked_at] == ["second", "first", "second"]


async def test_the_answer_to_the_chosen_message() -> None:
    earlier = [
        FakeMessage("user", "one"),
        FakeMessage("assistant", "first"),
        FakeMessage("user", "two"),
        FakeMessage("assistant", "second"),
    ]
    session = FakeSession(earlier=earlier, looks=[looks()])
    async with chat(session) as pilot:
        await press(pilot, *["alt+up"] * 4)
        assert isinstance(pilot.app.focused, UserMessage)
        await open_lens(pilot)
        assert "answer 1 of 2" in title(pilot)


@pytest.mark.parametrize(
    ("error", "said"),
    [(UserError("It does not fit."), "It does not fit."), (RuntimeError("oh"), "RuntimeError: oh")],
)
async def test_what_goes_wrong_is_told(error: Exception, said: str) -> None:
    async with chat(FakeSession([script("Hi")], looks=[[LensPart(0, 5), error]])) as pilot:
        await ask_and_wait(pilot, "hi")
        await press(pilot, "f4")
        await until(pilot, lambda: said in note(pilot))
        is_fault = not isinstance(error, UserError)
        assert pilot.app.answer_errors == ([error] if is_fault else [])  # type: ignore[attr-defined]
        assert ("could not be read again" in note(pilot)) == is_fault


async def test_the_users_own_key_opens_and_closes_it() -> None:
    own = Preferences(keymap={"lens": "f6,ctrl+l"})
    async with chat(
        FakeSession([script("Hi")], looks=[looks(), looks()]), preferences=own
    ) as pilot:
        await ask_and_wait(pilot, "hi")
        for key in ("f6", "ctrl+l"):
            await press(pilot, key)
            await until(pilot, lambda: isinstance(pilot.app.screen, LensScreen))
            await press(pilot, key)
            await until(pilot, lambda: not isinstance(pilot.app.screen, LensScreen))


async def test_an_empty_answer() -> None:
    async with chat(FakeSession([script("Hi")], looks=[[]])) as pilot:
        await ask_and_wait(pilot, "hi")
        await press(pilot, "f4")
        await until(pilot, lambda: note(pilot) == EMPTY)
        await press(pilot, "down", "end", "s", "1")
        assert told(pilot) == ""


async def test_nothing_to_look_at() -> None:
    gate = threading.Event()
    session = FakeSession([[*tokens("Hi"), gate, *script("")]])
    async with chat(session) as pilot:
        await press(pilot, "f4")
        assert prompt(pilot).border_subtitle == NO_ANSWER
        await ask(pilot, "hi")
        await press(pilot, "f4")
        assert prompt(pilot).border_subtitle == STILL_ANSWERING
        gate.set()
        await until(pilot, lambda: not is_answering(pilot))
        assert session.looked_at == []
