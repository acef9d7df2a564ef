"""What surprised new users: Tab, Esc, Ctrl+C, Alt+Enter, and sentences that were not true."""

import threading
from pathlib import Path

import pytest
from textual._xterm_parser import XTermParser

from llama_cpu.generation.events import Finished, StopReason
from llama_cpu.tui.actions import COMMANDS
from llama_cpu.tui.controllers.answering import ENDINGS
from llama_cpu.tui.path_completion import (
    choices_note,
    path_begun,
    path_completions,
    shared_beginning,
)
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm, QuitQuestion
from llama_cpu.tui.screens.help import HelpScreen
from llama_cpu.tui.slash_commands import completions
from llama_cpu.tui.textual_private import tell_alt_enter
from llama_cpu.tui.widgets.lens_details import figures
from llama_cpu.tui.widgets.message_area import CLEAR_HINT, SlashMenu
from tests.tui.driving import (
    WIDE,
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
from tests.tui.fakes import FakeSession, script, tokens
from tests.tui.lens_words import WORDS
from tests.tui.scenes import a_talk, several_talks


async def test_what_commands_say_is_one_note_at_the_prompt() -> None:
    session = a_talk()
    async with chat(session) as pilot:
        screen(pilot).conversation_view.scroll_home(animate=False)
        before = conversation(pilot)
        for _ in range(5):
            prompt(pilot).text = "/zzz"
            await pilot.press("escape", "enter")
            await until(pilot, lambda: "Unknown command /zzz" in note(pilot))
        assert conversation(pilot) == before
        assert screen_text(pilot).count("Unknown command") == 1
        prompt(pilot).text = "/set seed"
        await pilot.press("escape", "enter")
        await until(pilot, lambda: note(pilot).startswith("seed default"))
        await pilot.press("escape")
        assert note(pilot) == ""


async def test_ctrl_n_takes_notices_along() -> None:
    async with chat(FakeSession()) as pilot:
        screen(pilot).conversation_view.add_notice("Another model answers.")
        prompt(pilot).text = "/zzz"
        await pilot.press("enter")
        await until(pilot, lambda: bool(note(pilot)) and len(conversation(pilot)) == 1)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: conversation(pilot) == [] and note(pilot) == "")


# Tab and the list


async def test_tab_completes_paths(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one two.txt").write_text("Hello")
    (tmp_path / "notes" / "one three.txt").write_text("Hello")
    (tmp_path / "notes" / ".hidden").touch()
    (tmp_path / "notes" / "one\x1b[2J").touch()
    async with chat(FakeSession()) as pilot:
        prompt(pilot).insert(f"/load {tmp_path}/no")
        await pilot.press("tab")
        await until(pilot, lambda: prompt(pilot).text == f"/load {tmp_path}/notes/")
        await pilot.press("tab")
        await until(pilot, lambda: prompt(pilot).text == f"/load {tmp_path}/notes/one t")
        assert note(pilot) == "one three.txt, one two.txt; Tab again lists them."
        await pilot.press("tab")
        menu = screen(pilot).query_one(SlashMenu)
        await until(pilot, lambda: bool(menu.display))
        assert len(menu.options) == 2 and note(pilot) == ""
        await pilot.press("down", "enter")
        await until(pilot, lambda: prompt(pilot).text.endswith("/one two.txt"))
        await pilot.press("enter")
        await until(pilot, lambda: prompt(pilot).text == "Hello")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a", ".c"):
        (tmp_path / name).touch()
    assert path_completions("~/") == ["~/a", "~/b.txt"]
    assert path_completions("") == ["a", "b.txt"] and path_completions('"a') == ["a"]
    assert path_completions("~/.") == ["~/.c"] and path_completions("~") == ["~/"]
    assert path_completions("~nobody-of-that-name/") == path_completions("/no/such/") == []
    assert path_begun("/load  x y") == ("/load ", "x y") and path_begun("/set x") is None
    assert path_begun("load x") is None and path_begun("/load x\ny") is None
    assert path_begun("Hi\n/attach x y") == ("Hi\n/attach ", "x y")
    assert path_begun("Hi\n/load x") is None and path_begun("Hi\n/attach x\n") is None
    assert choices_note([f"a/{n}/" for n in range(9)]).startswith("0/, 1/, ")
    assert "7/ and 1 more;" in choices_note([f"a/{n}/" for n in range(9)])
    assert shared_beginning(["abc", "abd", "abx"]) == "ab" and shared_beginning(["x"]) == "x"


async def test_tab_never_leads_from_the_prompt_to_the_list() -> None:
    session = several_talks()
    async with chat(session, (140, 40)) as pilot:
        await until(pilot, lambda: screen(pilot).sidebar.display)
        count = len(session.history.conversations())
        for text in ("/load ~/no", "Hello", ""):
            prompt(pilot).text = text
            await pilot.pause()
            await pilot.press("tab", "c", "d", "shift+tab", "r")
            await pilot.pause()
            assert prompt(pilot).has_focus and not isinstance(pilot.app.screen, Confirm | Ask)
            assert text in prompt(pilot).text
        assert len(session.history.conversations()) == count
        await pilot.press("ctrl+b", "shift+tab", "tab", "r")  # on purpose
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))


# Keys of other programs


async def test_ctrl_c_stops_the_answer_and_then_asks_whether_to_quit() -> None:
    session = FakeSession([[*tokens("Once upon"), threading.Event()]])
    async with chat(session) as pilot:
        await ask(pilot, "Hi")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not is_answering(pilot))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuitQuestion))
        await pilot.press("escape")
        prompt(pilot).insert("copied")
        await pilot.press("shift+home", "ctrl+c")
        assert pilot.app.clipboard == "copied" and pilot.app.screen is screen(pilot)
        await pilot.press("end", "ctrl+c")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuitQuestion))
        await pilot.press("ctrl+c")
    assert pilot.app.return_value == 0


async def test_esc_twice_clears_the_prompt_and_up_brings_it_back() -> None:
    async with chat(FakeSession()) as pilot:
        await pilot.press(*"Hello", "escape")
        assert prompt(pilot).text == "Hello" and prompt(pilot).border_subtitle == CLEAR_HINT
        await pilot.press("!", "escape")
        assert prompt(pilot).text == "Hello!"
        await pilot.press("escape")
        assert prompt(pilot).text == ""
        await pilot.press("up")
        assert prompt(pilot).text == "Hello!"


def test_alt_enter_of_every_terminal() -> None:
    tell_alt_enter()
    for sequence in ("\x1b\r", "\x1b[13;3u"):
        assert [event.key for event in XTermParser().feed(sequence)] == ["alt+enter"]  # type: ignore[attr-defined]


async def test_other_names_of_commands() -> None:
    async with chat(FakeSession([script("One.")])) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press(*"/?", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        await pilot.press("escape")
        await pilot.press(*"/clear", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: conversation(pilot) == [])
        await pilot.press(*"/bye", "enter")
    assert pilot.app.return_value == 0


def test_what_is_used_most_is_the_first_command() -> None:
    names = list(COMMANDS)
    assert names[:3] == ["help", "new", "set"] and names.index("command_palette") >= 9
    assert [text for text, _ in completions("/b")] == ["/bye"]


# Sentences


async def test_the_notice_of_an_ending_outlives_the_change_of_the_model() -> None:
    ending = Finished(StopReason.LENGTH)
    async with chat(FakeSession([script("One", ending)])) as pilot:
        await ask_and_wait(pilot, "Hi")
        assert conversation(pilot)[-1] == ENDINGS[StopReason.LENGTH]
        state = screen(pilot).put_away()
        await pilot.app.show_chat(state)  # type: ignore[attr-defined]
        await until(pilot, lambda: len(conversation(pilot)) > 2)
        assert ENDINGS[StopReason.LENGTH] in conversation(pilot)


async def test_the_name_of_the_copied_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("long" * 20)))
    async with chat(FakeSession([script("One.")]), WIDE) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press("alt+c")
        await until(pilot, lambda: note(pilot).endswith("copied.txt"))
        assert "copied.txt" in screen_text(pilot)


def test_the_first_token_is_not_compared() -> None:
    assert "usual" not in figures(WORDS[0], 0, 6, 0.02).plain
    assert "1.5x the usual" in figures(WORDS[3], 3, 6, 0.02).plain
    assert "0.0x" not in figures(WORDS[0], 2, 6, 0.05).plain
