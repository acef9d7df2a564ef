"""Times and memory on the whole screen, and their export."""

import csv
import json
import os
import threading
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from llama_cpu.generation.events import Finished, Prefill, StopReason, Token
from llama_cpu.history.store import History
from llama_cpu.system.processor import processor_name
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.screens.figures import FiguresScreen
from llama_cpu.tui.widgets.plot import TimesPlot
from tests.tui.driving import (
    NARROW,
    WIDE,
    ask,
    ask_and_wait,
    chat,
    is_answering,
    prompt,
    screen,
    screen_text,
    until,
)
from tests.tui.fakes import FakeSession, Step, script

LARGE = (200, 60)


def answer(count: int, seconds: float) -> list[Step]:
    """``count`` tokens of that time after the first one, after 10 computed and 30 reused."""
    tokens = [Token(number, " word", seconds) for number in range(count)]
    return [Prefill(30, 10, 10, 0.5), Token(99, "A", 0.001), *tokens, Finished(StopReason.END)]


async def open_figures(pilot: Pilot[int]) -> FiguresScreen:
    await pilot.press("f7")
    await until(pilot, lambda: isinstance(pilot.app.screen, FiguresScreen))
    figures = pilot.app.screen
    assert isinstance(figures, FiguresScreen)
    await until(pilot, lambda: "Threads" in numbers(figures))
    return figures


def numbers(figures: FiguresScreen) -> str:
    return str(figures.query_one("#numbers Static").render())


def values(figures: FiguresScreen, plot: str) -> list[float]:
    return [round(value, 6) for value in figures.query_one(f"#{plot}", TimesPlot)._values]


def figure(figures: FiguresScreen, label: str) -> str:
    line = next(line for line in numbers(figures).splitlines() if line.strip().startswith(label))
    return line.strip().removeprefix(label).strip()


@pytest.mark.parametrize("size", [NARROW, WIDE, LARGE])
async def test_everything_is_there(size: tuple[int, int]) -> None:
    async with chat(FakeSession([answer(3, 0.02), answer(2, 0.04)]), size) as pilot:
        await ask_and_wait(pilot, "one")
        await ask_and_wait(pilot, "two")
        figures = await open_figures(pilot)
        assert values(figures, "prefill") == [0.05, 0.05]
        assert values(figures, "decode") == [0.02] * 3 + [0.04] * 2
        assert processor_name() in numbers(figures)
        assert figure(figures, "Threads") == "2" and figure(figures, "Precision") == "float32"
        assert figure(figures, "All answers") == "2"
        assert figure(figures, "cache hits") == "75.0%"
        assert figure(figures, "prefill") == "20.0 tok/s"
        assert figure(figures, "decode ") == "35.7 tok/s"
        assert figure(figures, "tokens per pass") == "1.00"
        assert figure(figures, "slowest") == "40.0 ms"
        for label in ("Process now", "weights", "KV cache", "the rest", "Peak", "Machine free"):
            assert figure(figures, label)
        assert figure(figures, "Paging") == "none"
        shown = screen_text(pilot)
        assert "Prefill: " in shown and "Decode: " in shown and "40.0 ms┤" in shown
        assert "cache hits 75.0%" in shown and "Export" in shown
        await pilot.press("end")
        await until(pilot, lambda: "Machine free" in screen_text(pilot))


async def test_keys_choose_an_answer_and_the_scale() -> None:
    async with chat(FakeSession([answer(3, 0.02), answer(2, 0.04)])) as pilot:
        await ask_and_wait(pilot, "one")
        await ask_and_wait(pilot, "two")
        figures = await open_figures(pilot)
        expected = [
            ("right", [0.02] * 3),
            ("right", [0.04] * 2),
            ("right", [0.02] * 3 + [0.04] * 2),
        ]
        for key, decode in [*expected, ("left", [0.04] * 2), ("left", [0.02] * 3)]:
            await pilot.press(key)
            assert values(figures, "decode") == decode
        assert "every token · answer 1 of 2" in screen_text(pilot)
        assert figure(figures, "Answer 1") == "of 2" and figure(figures, "decoded tokens") == "3"
        await pilot.press("home")
        assert figure(figures, "All answers") == "2"
        assert "0.0 ms┤" in screen_text(pilot)
        await pilot.press("l")
        await until(pilot, lambda: " 0.0 ms┤" not in screen_text(pilot))
        await pilot.press("l")
        await until(pilot, lambda: " 0.0 ms┤" in screen_text(pilot))


@pytest.mark.parametrize("key", ["escape", "q", "f7"])
async def test_it_closes(key: str) -> None:
    async with chat(FakeSession([])) as pilot:
        await open_figures(pilot)
        assert "Nothing was measured yet" in screen_text(pilot)
        await pilot.press("right", "left", key)
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        assert prompt(pilot).has_focus


async def test_an_answer_is_followed_and_then_not_there_twice() -> None:
    wait = threading.Event()
    begun: list[Step] = [Prefill(0, 4, 4, 0.2), Token(1, "A", 0.001), Token(2, " b", 0.03)]
    rest: list[Step] = [Token(3, " c", 0.05), Finished(StopReason.STOPPED)]
    more: list[Step] = [Prefill(6, 1, 1, 0.1), Token(4, " d", 0.001), Token(5, " e", 0.07)]
    session = FakeSession([[*begun, wait, *rest], [*more, Finished(StopReason.END)]])
    async with chat(session) as pilot:
        await ask(pilot, "one")
        figures = await open_figures(pilot)
        await until(pilot, lambda: values(figures, "decode") == [0.03])
        wait.set()
        await until(pilot, lambda: values(figures, "decode") == [0.03, 0.05])
        await until(pilot, lambda: not is_answering(pilot))
        figures.show()
        assert values(figures, "decode") == [0.03, 0.05] and values(figures, "prefill") == [0.05]
        await pilot.press("escape", "ctrl+g")
        await until(pilot, lambda: not session.scripts and not is_answering(pilot))
        figures = await open_figures(pilot)
        assert values(figures, "decode") == [0.03, 0.05, 0.07]
        assert values(figures, "prefill") == [0.05, 0.1]
        assert figure(figures, "All answers") == "1"


async def test_a_conversation_that_is_opened_again_has_its_times(tmp_path: Path) -> None:
    with History(tmp_path / "history.db") as history:
        async with chat(FakeSession([answer(3, 0.02)], history=history)) as pilot:
            await ask_and_wait(pilot, "one")
        session = FakeSession([answer(2, 0.04)], history=history)
        session.conversation.open(1)
        async with chat(session) as pilot:
            figures = await open_figures(pilot)
            assert values(figures, "decode") == [0.02] * 3
            assert values(figures, "prefill") == [0.05]
            await pilot.press("escape")
            await ask_and_wait(pilot, "two")
            figures = await open_figures(pilot)
            assert values(figures, "decode") == [0.02] * 3 + [0.04] * 2


async def test_resize_and_no_mouse() -> None:
    async with chat(FakeSession([answer(30, 0.02)])) as pilot:
        await ask_and_wait(pilot, "one")
        figures = await open_figures(pilot)
        for width, height in ((40, 12), (80, 24), (10, 3), (200, 60)):
            await pilot.resize_terminal(width, height)
            await pilot.press("pagedown", "pageup")
            await pilot.pause()
        assert figures.query_one("#numbers").has_focus
        await until(pilot, lambda: "Machine free" in screen_text(pilot))


async def test_commands_of_the_palette() -> None:
    async with chat(FakeSession([answer(3, 0.02)])) as pilot:
        await ask_and_wait(pilot, "one")
        figures = await open_figures(pilot)
        offered = {each.title: each for each in pilot.app.get_system_commands(figures)}
        assert "(E)" in offered["Export the figures"].help
        await offered["Next answer"].callback()
        await until(pilot, lambda: "Answer 1" in numbers(figures))
        await offered["Close the figures"].callback()
        await until(pilot, lambda: pilot.app.screen is screen(pilot))


# Export


async def export(pilot: Pilot[int], name: str) -> None:
    await pilot.press("e")
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    pilot.app.screen.query_one(Input).value = name
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(pilot.app.screen, Ask))


def said(pilot: Pilot[int]) -> str:
    figures = next(s for s in pilot.app.screen_stack if isinstance(s, FiguresScreen))
    return str(figures.query_one("#said").render())


async def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    async with chat(FakeSession([answer(3, 0.02), answer(2, 0.04)]), NARROW) as pilot:
        await ask_and_wait(pilot, "one")
        await ask_and_wait(pilot, "two")
        await open_figures(pilot)
        await export(pilot, str(file))
        await until(pilot, lambda: said(pilot) == f"Exported to {file}")
    rows = list(csv.DictReader(file.open(newline="")))
    assert [row["phase"] for row in rows].count("prefill") == 2
    decode = [float(row["seconds"]) for row in rows if row["phase"] == "decode"]
    assert decode == pytest.approx([0.02] * 3 + [0.04] * 2, rel=1e-6)
    assert {row["model"] for row in rows} == {"Test model"}


async def test_json_and_the_place_that_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with chat(FakeSession([script("One two.")])) as pilot:
        await ask_and_wait(pilot, "one")
        await open_figures(pilot)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        offered = pilot.app.screen.query_one(Input).value
        assert offered == str(tmp_path / "llama_cpu-times-1.csv")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, FiguresScreen))
        await export(pilot, "mine.JSON")
        await until(pilot, lambda: said(pilot) == f"Exported to {tmp_path / 'mine.JSON'}")
    values = json.loads((tmp_path / "mine.JSON").read_text())
    assert values["threads"] == 2 and values["precision"] == "float32"
    assert values["processor"] == processor_name() and values["model"] == "Test model"
    assert values["memory"]["weights"] == FakeSession.weights_bytes
    assert values["memory"]["resident"] > 0
    assert values["totals"]["reused_tokens"] == 3 and len(values["answers"]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["mine.JSON"]


async def test_a_file_that_is_there_is_replaced_only_if_the_user_says_so(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    file.write_text("mine")
    async with chat(FakeSession([script("One two.")])) as pilot:
        await ask_and_wait(pilot, "one")
        await open_figures(pilot)
        await export(pilot, str(file))
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        assert file.name in screen_text(pilot)
        await pilot.press("enter")  # the harmless answer has the focus
        await until(pilot, lambda: said(pilot) == "Nothing was exported.")
        assert file.read_text() == "mine"
        await export(pilot, str(file))
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: said(pilot) == f"Exported to {file}")
        assert file.read_text().startswith("answer,model,run,phase,")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("times.txt", "in neither .csv nor .json"), ("", ""), ("  ", ""),
        ("folder.csv", "name another file"),
        ("~nobody-of-that-name/a.csv", "does not exist"),
        pytest.param("x" * 300 + ".csv", "name another file", id="a long name"),
    ],
)  # fmt: skip
async def test_a_place_that_cannot_be(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    async with chat(FakeSession([])) as pilot:
        await open_figures(pilot)
        await export(pilot, name)
        await until(pilot, lambda: problem in said(pilot) and pilot.app.screen_stack[-1].is_current)
        assert isinstance(pilot.app.screen, FiguresScreen)
        assert bool(said(pilot)) == bool(problem)
    assert [each.name for each in tmp_path.iterdir()] == ["folder.csv"]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the current folder from being removed")
async def test_without_a_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    async with chat(FakeSession([])) as pilot:
        await open_figures(pilot)
        gone.rmdir()
        await export(pilot, "a.csv")
        await until(pilot, lambda: "a folder that does not exist" in said(pilot))
        await export(pilot, str(tmp_path / "a.csv"))
        await until(pilot, lambda: said(pilot) == f"Exported to {tmp_path / 'a.csv'}")
