"""The chat screen: what each key does, and what the events of an answer show."""

import threading

import pytest
from textual import events

from llama_cpu.errors import UserError
from llama_cpu.generation.events import Finished, Prefill, StopReason, TurnsDropped
from llama_cpu.tui.actions import KEYED, Scope
from llama_cpu.tui.app import ChatApp
from llama_cpu.tui.controllers.answering import ENDINGS, REPEATED, unfinished
from llama_cpu.tui.controllers.turn_actions import NOTHING_TO_REGENERATE, STILL_ANSWERING
from llama_cpu.tui.number_format import row
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.conversation_view import ConversationView
from llama_cpu.tui.widgets.message_views import Notice
from tests.tui.driving import (
    NARROW,
    ask,
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
from tests.tui.fakes import FakeMessage, FakeSession, script, tokens

STOPPED = ENDINGS[StopReason.STOPPED]


async def test_enter_sends_and_the_answer_streams() -> None:
    wait = threading.Event()
    answer = [Prefill(0, 5, 5, 0.1), *tokens("The capital is"), wait, *tokens(" **Paris**.")]
    session = FakeSession([[*answer, Finished(StopReason.END)]])
    async with chat(session) as pilot:
        await ask(pilot, "What is the capital of France?")
        await until(pilot, lambda: conversation(pilot)[-1] == "The capital is")
        assert conversation(pilot)[0] == "You\nWhat is the capital of France?"
        assert prompt(pilot).text == ""
        wait.set()
        await until(pilot, lambda: conversation(pilot)[-1] == "The capital is Paris.")
        await until(pilot, lambda: not is_answering(pilot))


async def test_letters_and_enter_in_one_burst_are_sent_in_order() -> None:
    session = FakeSession([script("Hi.")])
    async with chat(session) as pilot:
        for key in ["h", "e", "ctrl+j", "y", "enter"]:
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: bool(session.messages))
        assert session.messages[0].text == "he\ny"


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter"])
async def test_new_line_keys(key: str) -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        await pilot.press("a", key, "b")
        assert prompt(pilot).text == "a\nb"
        assert not session.messages


async def test_enter_with_nothing_written_does_nothing() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        await pilot.press("space", "ctrl+j", "enter")
        assert not session.messages


async def test_paste_keeps_line_ends_and_does_not_send() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        pilot.app.post_message(events.Paste("one\r\ntwo\rthree\x1b[31m\n"))
        await pilot.pause()
        assert prompt(pilot).text == "one\ntwo\nthree␛[31m\n"
        assert not session.messages


async def test_the_prompt_grows_to_eight_rows() -> None:
    async with chat(FakeSession([])) as pilot:
        assert prompt(pilot).size.height == 1
        prompt(pilot).insert("a\nb\nc")
        await until(pilot, lambda: prompt(pilot).size.height == 3)
        prompt(pilot).insert("\n" * 20)
        await until(pilot, lambda: prompt(pilot).size.height == 8)


async def test_escape_stops_and_keeps_what_was_written() -> None:
    session = FakeSession([[*tokens("Once upon a time"), threading.Event(), *tokens(" never")]])
    async with chat(session) as pilot:
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon a time")
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))
        assert conversation(pilot)[1:] == ["Once upon a time", STOPPED]
        assert session.messages[-1].text == "Once upon a time"


async def test_a_message_stopped_before_its_answer_stays() -> None:
    session = FakeSession([[threading.Event(), *tokens("never")], script("Both.")])
    async with chat(session) as pilot:
        await ask(pilot, "one")
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))
        await ask_and_wait(pilot, "two")
        assert conversation(pilot) == ["You\none", STOPPED, "You\ntwo", "Both."]


async def test_enter_during_an_answer_keeps_the_text() -> None:
    wait = threading.Event()
    session = FakeSession([[wait, *script("First.")], script("Second.")])
    async with chat(session) as pilot:
        await ask(pilot, "one")
        await ask(pilot, "two")
        assert prompt(pilot).text == "two"
        assert prompt(pilot).border_subtitle == STILL_ANSWERING
        wait.set()
        await until(pilot, lambda: not is_answering(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: conversation(pilot)[-1] == "Second.")
        assert [message.text for message in session.messages] == ["one", "First.", "two", "Second."]


async def test_regenerate_replaces_the_answer() -> None:
    session = FakeSession([script("Lyon."), script("Paris.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Capital?")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: conversation(pilot) == ["You\nCapital?", "Paris."])
        await until(pilot, lambda: not is_answering(pilot))
        assert [message.text for message in session.messages] == ["Capital?", "Paris."]


async def test_regenerate_during_an_answer_stops_it_first() -> None:
    session = FakeSession([[*tokens("Lyon"), threading.Event()], script("Paris.")])
    async with chat(session) as pilot:
        await ask(pilot, "Capital?")
        await until(pilot, lambda: conversation(pilot)[-1] == "Lyon")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: conversation(pilot) == ["You\nCapital?", "Paris."])


async def test_regenerate_without_an_answer_says_so() -> None:
    async with chat(FakeSession([])) as pilot:
        await pilot.press("ctrl+r")
        await until(pilot, lambda: prompt(pilot).border_subtitle == NOTHING_TO_REGENERATE)


async def test_new_conversation_asks_first() -> None:
    session = FakeSession([script("Hello.")], [FakeMessage("system", "Be kind.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("enter")  # the harmless answer
        await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))
        assert len(session.messages) == 3

        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("right", "enter")
        await until(pilot, lambda: conversation(pilot) == [])
        assert session.messages == [] and session.history.conversations() == []
        assert prompt(pilot).has_focus


async def test_new_conversation_without_messages_does_not_ask() -> None:
    async with chat(FakeSession([]), is_demo=True) as pilot:
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, Confirm)
        assert "A small model" in conversation(pilot)[0]


async def test_new_conversation_during_an_answer_stops_it_only_if_wanted() -> None:
    wait, never = threading.Event(), threading.Event()
    session = FakeSession([[*tokens("Once upon"), wait, *tokens(" a time"), never]])
    async with chat(session) as pilot:
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        await pilot.press("ctrl+n", "ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        wait.set()
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon a time")
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))
        assert is_answering(pilot)

        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: conversation(pilot) == [])
        assert not is_answering(pilot)
        assert session.messages == []


async def test_quit_during_an_answer_stops_the_model() -> None:
    session = FakeSession([[*tokens("Once upon"), threading.Event()]])
    async with chat(session) as pilot:
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        await pilot.press("ctrl+q")
    assert pilot.app.return_value == 0
    assert session.is_closed
    assert session.messages[-1].text == "Once upon"


async def test_a_prompt_that_cannot_be_answered_goes_back_into_the_box() -> None:
    session = FakeSession([[UserError("The prompt is too long.")], script("Fine.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "a long text")
        assert conversation(pilot) == ["The prompt is too long."]
        assert prompt(pilot).text == "a long text"
        assert session.messages == []
        await pilot.press("enter")
        await until(pilot, lambda: conversation(pilot)[-1] == "Fine.")


async def test_an_answer_that_fails_leaves_the_conversation_as_it_is() -> None:
    error = RuntimeError("shapes do not match.\nsomewhere inside")
    session = FakeSession([script("Hello."), [*tokens("Once upon"), error], script("Fine.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Hi")
        await ask_and_wait(pilot, "A story")
        notice = (
            "The answer failed: RuntimeError: shapes do not match; start with --debug to see where."
        )
        before = ["You\nHi", "Hello.", "You\nA story"]
        assert conversation(pilot) == [*before, "Once upon", notice]
        assert screen(pilot).query(Notice).last().has_class("problem")
        assert isinstance(pilot.app, ChatApp)
        await until(pilot, lambda: pilot.app.answer_errors == [error])  # type: ignore[attr-defined]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: conversation(pilot) == [*before, "Fine."])
        await until(pilot, lambda: not is_answering(pilot))


async def test_an_answer_that_fails_before_its_first_word() -> None:
    session = FakeSession([[ZeroDivisionError()], script("Both.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "one")
        notice = "The answer failed: ZeroDivisionError; start with --debug to see where."
        assert conversation(pilot) == ["You\none", notice]
        await ask_and_wait(pilot, "two")
        assert conversation(pilot) == ["You\none", notice, "You\ntwo", "Both."]


@pytest.mark.parametrize(
    ("finished", "notice"),
    [
        (Finished(StopReason.LENGTH), ENDINGS[StopReason.LENGTH]),
        (Finished(StopReason.CONTEXT), ENDINGS[StopReason.CONTEXT]),
        (Finished(StopReason.REPETITION), REPEATED),
        (Finished(StopReason.FAILED, message="The model broke."), "The model broke."),
    ],
)
async def test_how_an_answer_ended_is_said(finished: Finished, notice: str) -> None:
    session = FakeSession([script("Some text", finished)])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Hi")
        assert conversation(pilot)[1:] == ["Some text", notice]
    if finished.reason in ENDINGS:  # and when it is opened again
        answer = session.conversation.line[-1]
        assert unfinished(answer, can_vary=True) == notice
        assert unfinished(answer, can_vary=False) == ENDINGS[finished.reason]


async def test_held_back_text_is_added_in_the_end() -> None:
    session = FakeSession([script("Some", Finished(StopReason.END, text=" more"))])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Hi")
        assert conversation(pilot)[1:] == ["Some more"]


async def test_dropped_turns_are_said() -> None:
    session = FakeSession([[TurnsDropped(2), *script("Yes.")]])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "Hi")
        notice = "The 2 oldest messages no longer fit in the context and were left out."
        assert conversation(pilot) == ["You\nHi", notice, "Yes."]


async def test_earlier_messages_are_shown() -> None:
    earlier = [
        FakeMessage("system", "s"),
        FakeMessage("user", "u"),
        FakeMessage("assistant", "*a*"),
    ]
    async with chat(FakeSession([], earlier)) as pilot:
        assert conversation(pilot) == ["You\nu", "a"]


async def test_panels_show_the_figures() -> None:
    async with chat(FakeSession([script("one two three four")])) as pilot:
        await ask_and_wait(pilot, "Hi")
        timing = text_of(pilot, "TimingPanel")
        assert "8 computed" in timing
        assert "80.0 tok/s" in timing  # the prompt
        assert "50.0 tok/s" in timing  # the answer
        assert "of 4,096" in timing
        memory = text_of(pilot, "MemoryPanel").splitlines()
        assert memory[2:4] == [
            row("  KV cache", "5.0 of 50.0 MiB").plain,
            row("  KV cache, idle", "15.0 MiB").plain,
        ]
        for panel in ("TimingPanel", "MemoryPanel"):
            assert (
                len(text_of(pilot, panel).splitlines())
                == screen(pilot).query_one(panel).size.height
            )


async def test_the_summary_shows_what_fits() -> None:
    async with chat(FakeSession([script("one two three four")]), NARROW) as pilot:
        await ask_and_wait(pilot, "Hi")
        start = "50.0 tok/s · p95 20.0 ms · reused 3+8 · first 120 ms · ctx "
        await pilot.resize_terminal(110, 24)
        await until(pilot, lambda: text_of(pilot, "#summary").startswith(start))
        await pilot.resize_terminal(40, 24)
        await until(pilot, lambda: len(text_of(pilot, "#summary")) <= 38)
        assert text_of(pilot, "#summary").startswith("50.0 tok/s · reused 3+8 · ctx ")


async def test_progress_of_a_long_prompt() -> None:
    session = FakeSession([[Prefill(0, 512, 2048, 2.0), threading.Event()]])
    async with chat(session, NARROW) as pilot:
        await ask(pilot, "Hi")
        await until(pilot, lambda: "512 of 2,048" in text_of(pilot, "TimingPanel"))
        assert text_of(pilot, "#summary").startswith("reading 512/2048 at 256 tok/s · ")
        assert "Test model is reading the prompt" in screen_text(pilot)  # one space
        await pilot.press("escape")
        summary = "stopped, read 512/2048 · "
        await until(pilot, lambda: text_of(pilot, "#summary").startswith(summary))
        session.context_used = 400  # of the conversation before
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        summary = "no answer yet · ctx 0/4096"
        await until(pilot, lambda: text_of(pilot, "#summary").startswith(summary))


async def test_a_narrow_screen_folds_the_panels() -> None:
    async with chat(FakeSession([script("one two three")]), NARROW, is_demo=True) as pilot:
        await ask_and_wait(pilot, "Hi")
        assert not screen(pilot).query_one("#side").display
        shown = screen_text(pilot)
        for essential in ("one two three", "tok/s", "reused 3+8", "ctx ", "iB", "Ask something"):
            assert essential in shown
        for key in ("Send", "Line", "Stop", "New", "Again", "List", "Quit", "palette"):
            assert key in shown.splitlines()[-1]


async def test_resizing_moves_the_panels() -> None:
    async with chat(FakeSession([])) as pilot:
        side, summary = screen(pilot).query_one("#side"), screen(pilot).query_one("#summary")
        assert side.display and not summary.display
        await pilot.resize_terminal(*NARROW)
        await until(pilot, lambda: summary.display and not side.display)
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: side.display and not summary.display)


async def test_scrolling_up_is_left_alone_while_text_arrives() -> None:
    wait = threading.Event()
    long_answer = "\n\n".join(f"Paragraph {n}." for n in range(60))
    session = FakeSession([[*tokens(long_answer), wait, *tokens("\n\nThe\n\nend.")]])
    async with chat(session, NARROW) as pilot:
        view = screen(pilot).query_one(ConversationView)
        await ask(pilot, "Hi")
        await until(pilot, lambda: "Paragraph 59." in conversation(pilot)[-1])
        await until(pilot, lambda: view.max_scroll_y > 0 and view.scroll_y == view.max_scroll_y)
        await pilot.press("pageup", "pageup")
        position = view.scroll_y
        assert position < view.max_scroll_y
        wait.set()
        await until(pilot, lambda: "end." in conversation(pilot)[-1])
        await until(pilot, lambda: not is_answering(pilot))
        assert view.scroll_y == position
        await pilot.press(*["pagedown"] * 5)
        assert view.scroll_y == view.max_scroll_y


async def test_everything_the_keys_do_is_in_the_command_palette() -> None:
    async with chat(FakeSession([])) as pilot:
        offered = list(pilot.app.get_system_commands(screen(pilot)))
        assert {command.title for command in offered} >= {"Send", "New line", "Quit", "Theme"}
        # What is said of each names its key.
        named = " ".join(command.help for command in offered)
        for action in KEYED.values():
            if action.scope is not Scope.CHAT:
                continue
            parts = action.keys.replace("escape", "esc").split("+")
            if not parts[0].startswith("page"):
                assert "+".join(part.capitalize() for part in parts) in named
        (sidebar,) = [command for command in offered if command.title == "Conversations"]
        await sidebar.callback()
        assert screen(pilot).sidebar.display


async def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with chat(FakeSession([script("Some `code`.")])) as pilot:
        await ask_and_wait(pilot, "Hi")
        assert pilot.app.no_color
        assert "Some code." in screen_text(pilot)
