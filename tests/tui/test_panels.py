"""Panels that are hidden, and the warning that the memory no longer suffices."""

from pathlib import Path

import pytest
from textual.pilot import Pilot

from llama_cpu.settings.user_config import UserConfig, read_config
from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.paging import Paging, PagingReport
from llama_cpu.tui.controllers import panels
from llama_cpu.tui.controllers.panels import warning
from llama_cpu.tui.preferences import Preferences, preferences_from
from llama_cpu.tui.screens import chat as chat_screen
from llama_cpu.tui.screens.figures import FiguresScreen
from llama_cpu.tui.widgets.memory_panel import MemoryPanel
from tests.tui.driving import (
    NARROW,
    ask_and_wait,
    chat,
    conversation,
    prompt,
    screen,
    screen_text,
    until,
)
from tests.tui.fakes import FakeSession, script

MIB = 1 << 20


def side(pilot: Pilot[int]) -> bool:
    return screen(pilot).query_one("#side").display


def summary(pilot: Pilot[int]) -> bool:
    return screen(pilot).query_one("#summary").display


async def test_a_key_hides_the_panels_and_the_choice_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# mine\nseed = 1\n")
    async with chat(FakeSession([]), preferences=preferences_from(read_config(file))) as pilot:
        assert side(pilot) and not summary(pilot)
        await pilot.press("f6")
        await until(pilot, lambda: not side(pilot) and summary(pilot))
        await until(pilot, lambda: "panels = false" in file.read_text())
        assert prompt(pilot).has_focus
    async with chat(FakeSession([]), preferences=preferences_from(read_config(file))) as pilot:
        assert not side(pilot) and summary(pilot)
        await pilot.press("f6")
        await until(pilot, lambda: side(pilot) and not summary(pilot))
        await until(pilot, lambda: file.read_text() == "# mine\nseed = 1\npanels = true\n")


async def test_hidden_where_nothing_is_written() -> None:
    async with chat(FakeSession([]), preferences=Preferences(panels=False)) as pilot:
        assert not side(pilot)
        await pilot.press("f6")
        await until(pilot, lambda: side(pilot))
        await pilot.app.workers.wait_for_complete()
        assert not list(pilot.app._notifications)


async def test_a_choice_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    preferences = Preferences(UserConfig(tmp_path / "file" / "config.toml"))
    async with chat(FakeSession([]), preferences=preferences) as pilot:
        await pilot.press("f6")
        told = "write panels = false into it yourself"
        await until(pilot, lambda: any(told in n.message for n in pilot.app._notifications))
        assert not side(pilot)


@pytest.mark.parametrize("key", ["f6", "f7"])
async def test_on_a_small_terminal_both_keys_show_the_whole_screen(key: str) -> None:
    async with chat(FakeSession([]), NARROW) as pilot:
        assert not side(pilot)
        await pilot.press(key)
        await until(pilot, lambda: isinstance(pilot.app.screen, FiguresScreen))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: side(pilot))  # it was not what was chosen


async def test_as_a_command() -> None:
    async with chat(FakeSession([])) as pilot:
        prompt(pilot).insert("/panels")
        await pilot.press("enter")
        await until(pilot, lambda: not side(pilot))
        prompt(pilot).insert("/figures")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, FiguresScreen))


async def test_both_are_in_the_palette() -> None:
    async with chat(FakeSession([])) as pilot:
        commands = pilot.app.get_system_commands(screen(pilot))
        offered = {command.title: command for command in commands}
        assert "(F6)" in offered["Panels"].help and "(F7)" in offered["Figures"].help
        await offered["Figures"].callback()
        await until(pilot, lambda: isinstance(pilot.app.screen, FiguresScreen))


# A machine that swaps


class Machine:
    """Swaps 50 MiB between two reports, as long as it is wanted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_swapping, self.has_swap, self.moved, self.reports = False, True, 9 << 30, 0
        monkeypatch.setattr(panels, "paging_report", self.paging)
        monkeypatch.setattr(chat_screen, "memory_report", self.memory)

    def paging(self) -> PagingReport:
        self.reports += 1
        self.moved += 50 * MIB if self.is_swapping else 0
        return PagingReport(self.moved, 0, 0) if self.has_swap else PagingReport(0, 0, self.moved)

    def memory(self) -> MemoryReport:
        return MemoryReport(700 * MIB, 700 * MIB, 100 * MIB, 600 * MIB, 650 * MIB, 1000 * MIB)

    def seconds(self, pilot: Pilot[int], count: int) -> None:
        for _ in range(count):
            screen(pilot)._show_memory()


def warnings(pilot: Pilot[int]) -> list[str]:
    return [text for text in conversation(pilot) if "no longer fit in memory" in text]


@pytest.mark.parametrize("size", [NARROW, (120, 40)])
async def test_the_warning_comes_once(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    async with chat(FakeSession([script("One.")]), size) as pilot:
        await ask_and_wait(pilot, "Hi")
        machine.seconds(pilot, 10)
        await pilot.pause()
        assert not warnings(pilot) and "swapping" not in screen_text(pilot)
        machine.is_swapping = True
        machine.seconds(pilot, 10)
        await until(pilot, lambda: len(warnings(pilot)) == 1)
        (told,) = warnings(pilot)
        assert "begun to swap" in told and "as bf16 or int8 or int4 (F3)" in told
        assert "Close other programs" in told and "--max_seq_len" in told
        assert "swapping" in screen_text(pilot)
        machine.is_swapping = False
        machine.seconds(pilot, 10)
        await until(pilot, lambda: "swapping" not in screen_text(pilot))
        machine.is_swapping = True
        machine.seconds(pilot, 10)
        await until(pilot, lambda: "swapping" in screen_text(pilot))
        assert len(warnings(pilot)) == 1 and prompt(pilot).has_focus


async def test_weights_that_are_read_again_where_there_is_no_swap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch)
    machine.has_swap, machine.is_swapping = False, True
    session = FakeSession([])
    session.mapped_bytes = 500 * MIB
    async with chat(session) as pilot:
        machine.seconds(pilot, 20)
        await until(pilot, lambda: len(warnings(pilot)) == 1)
        assert "read from the disk again and again" in warnings(pilot)[0]
        panel = screen(pilot).query_one(MemoryPanel)
        assert panel.border_subtitle == "rereading the weights"


async def test_the_warning_is_seen_over_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    async with chat(FakeSession([])) as pilot:
        await pilot.press("f7")
        await until(pilot, lambda: isinstance(pilot.app.screen, FiguresScreen))
        machine.is_swapping = True
        machine.seconds(pilot, 10)
        await until(pilot, lambda: bool(list(pilot.app._notifications)))
        pilot.app.screen.show()  # type: ignore[attr-defined]
        await until(pilot, lambda: "swapping" in screen_text(pilot))
        assert len(list(pilot.app._notifications)) == 1


@pytest.mark.parametrize(
    ("precision", "smaller"),
    [
        ("float32", "as bf16 or int8 or int4"),
        ("bf16", "as int8 or int4"),
        ("int4", "that is smaller"),
    ],
)
def test_what_to_do_depends_on_what_was_done(precision: str, smaller: str) -> None:
    for paging in Paging:
        assert f"choose a model {smaller} (F9)" in warning(paging, precision, "F9")
