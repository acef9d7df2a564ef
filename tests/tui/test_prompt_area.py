"""Earlier texts, and the tokens of what is being written."""

import threading

from llama_cpu.tui.controllers.turn_actions import STILL_ANSWERING
from llama_cpu.tui.input_history import InputHistory
from llama_cpu.tui.widgets import message_area as prompt_area
from tests.tui.driving import ask, ask_and_wait, chat, is_answering, prompt, until
from tests.tui.fakes import FakeSession, script


def test_memory() -> None:
    memory = InputHistory()
    assert memory.step("draft", -1) is None and memory.step("draft", 1) is None
    for text in ("one", "two", "two", " "):
        memory.add(text)
    assert memory.step("draft", -1) == "two"
    assert memory.step("two, changed", -1) == "one"
    assert memory.step("one", -1) is None
    assert memory.step("one", 1) == "two, changed"
    assert memory.step("two, changed", 1) == "draft"
    assert memory.step("draft", 1) is None
    memory.step("draft", -1)
    memory.add("three")
    assert memory.step("", -1) == "three" and memory.step("three", -1) == "two"


async def test_up_and_down_recall_and_keep_the_draft() -> None:
    async with chat(FakeSession([script("1"), script("2")])) as pilot:
        await ask_and_wait(pilot, "one\nline")
        await ask_and_wait(pilot, "//two")
        await pilot.press(*"new")
        await pilot.press("up")
        assert prompt(pilot).text == "//two"
        await pilot.press("up")
        assert prompt(pilot).text == "one\nline"
        await pilot.press("up")  # from its second line to the first
        assert prompt(pilot).text == "one\nline" and prompt(pilot).cursor_location[0] == 0
        await pilot.press("down", "down")
        assert prompt(pilot).text == "//two"
        await pilot.press("down")
        assert prompt(pilot).text == "new"


async def test_up_and_down_move_within_a_wrapped_line() -> None:
    async with chat(FakeSession([script("1")])) as pilot:
        await ask_and_wait(pilot, "one")
        prompt(pilot).insert("word " * 40)
        await until(pilot, lambda: prompt(pilot).size.height == 3)
        await pilot.press("up")
        assert prompt(pilot).text == "word " * 40
        await pilot.press("up", "up")
        assert prompt(pilot).text == "one"


async def test_tokens_are_counted_while_one_writes() -> None:
    async with chat(FakeSession([script("Fine.")])) as pilot:
        box = prompt(pilot)
        box.insert("one")
        await until(pilot, lambda: box.border_subtitle == "1 token")
        box.insert(" two three")
        await until(pilot, lambda: box.border_subtitle == "3 tokens")
        box.text = "/set seed 7"
        await until(pilot, lambda: box.border_subtitle == "")
        box.text = ""
        await ask_and_wait(pilot, "one two")
        await until(pilot, lambda: box.border_subtitle == "")


async def test_a_hint_comes_before_the_count() -> None:
    wait = threading.Event()
    async with chat(FakeSession([[wait, *script("Fine.")]])) as pilot:
        box = prompt(pilot)
        await ask(pilot, "one")
        await ask(pilot, "two words")
        assert box.border_subtitle == STILL_ANSWERING
        wait.set()
        await until(pilot, lambda: not is_answering(pilot))
        assert box.border_subtitle == STILL_ANSWERING
        box.insert(" more")
        await until(pilot, lambda: box.border_subtitle == "3 tokens")


async def test_a_slow_count_delays_no_typing_and_is_not_repeated_at_once() -> None:
    wait, counted = threading.Event(), []

    class Slow(FakeSession):
        def count_tokens(self, text: str) -> int:
            counted.append(text)
            wait.wait(10)
            return len(text)

    async with chat(Slow([])) as pilot:
        await pilot.press("a")
        await until(pilot, lambda: counted == ["a"])
        await pilot.press("b", "c")
        assert prompt(pilot).text == "abc"
        await pilot.pause(2 * prompt_area.COUNT_SECONDS)
        assert counted == ["a"]
        wait.set()
        await until(pilot, lambda: prompt(pilot).border_subtitle == "3 tokens")


async def test_a_count_that_fails_is_no_matter() -> None:
    class Broken(FakeSession):
        def count_tokens(self, text: str) -> int:
            raise ValueError

    async with chat(Broken([script("Fine.")])) as pilot:
        await pilot.press("a")
        await pilot.pause(2 * prompt_area.COUNT_SECONDS)
        await ask_and_wait(pilot, "b")
        assert prompt(pilot).border_subtitle == ""
