"""The list of models to download, and one download with its pause and its end."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

import llama_cpu.tui.app
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.hub.reference import Reference
from llama_cpu.loading.discovery import FoundModel, ModelFacts
from llama_cpu.tui.model_source import ModelSource, OnProgress
from llama_cpu.tui.screens.downloads import DownloadScreen, Speed, progress_text
from llama_cpu.tui.screens.models import ModelScreen
from tests.tui.driving import chat, prompt, screen_text, until
from tests.tui.fakes import PATIENCE, FakeSession

MIB = 1 << 20


class Hub:
    """Stands for downloads: what was asked, and how each of them ends."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()  # until then a download goes on
        self.stopped = threading.Event()
        self.error: Exception | None = None
        self.models = [FoundModel(Path("/m/old"), "old")]

    def find(self) -> list[FoundModel]:
        return self.models

    def pull(self, reference: Reference, on_progress: OnProgress, stop: threading.Event) -> Path:
        self.asked.append(str(reference))
        on_progress(100 * MIB, 400 * MIB, "model.gguf")
        while not self.gate.wait(0.01):
            if stop.is_set():
                self.stopped.set()
                raise Cancelled
        if self.error:
            raise self.error
        path = Path(f"/hub/{reference.repository}")
        self.models = [*self.models, FoundModel(path, "new")]
        return path


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the hub, headers that say nothing, and 1 GiB of memory."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    facts = ModelFacts(problem="Nothing is known.")
    monkeypatch.setattr("llama_cpu.loading.discovery.facts_of", lambda found, kv_int8: facts)
    monkeypatch.setattr("llama_cpu.tui.screens.downloads.available_memory", lambda: 1 << 30)


@asynccontextmanager
async def downloads(hub: Hub, size: tuple[int, int] = (100, 30)) -> AsyncIterator[Pilot[int]]:
    async with chat(FakeSession(), size, models=ModelSource(hub.find, pull=hub.pull)) as pilot:
        await pilot.press("f3")
        await until(pilot, lambda: "Nothing is known" in screen_text(pilot))
        await pilot.press("D")  # as the page says; d is in the test of every key
        await until(pilot, lambda: isinstance(pilot.app.screen, DownloadScreen))
        await until(pilot, lambda: pilot.app.screen.query_one(Input).has_focus)
        yield pilot


async def shows(pilot: Pilot[int], text: str) -> None:
    await until(pilot, lambda: text in screen_text(pilot))


async def test_a_download_and_its_model_in_the_list() -> None:
    hub = Hub()
    async with downloads(hub) as pilot:
        shown = screen_text(pilot)
        assert "SmolLM2 360M" in shown and "368 MiB" in shown and "Apache-2.0" in shown
        assert "Mistral 7B" in shown and "4.1 GiB" in shown and "5.1 GiB!" in shown
        await pilot.press("down", "up", "down", "enter")
        await shows(pilot, "100 MiB of 400 MiB  ·  25%")
        await pilot.press("enter")  # one at a time
        hub.gate.set()
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelScreen))
        table = pilot.app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 2 and table.cursor_row == 1)
        assert hub.asked == ["bartowski/Qwen_Qwen3-0.6B-GGUF:Q8_0"]
        await shows(pilot, "Nothing is known")
        await pilot.press("escape")
        await until(pilot, lambda: prompt(pilot).has_focus)


async def test_pause_and_resume() -> None:
    hub = Hub()
    async with downloads(hub) as pilot:
        await pilot.press("enter")
        await shows(pilot, "Esc pauses")
        await pilot.press("escape")
        await shows(pilot, "Paused at 100 MiB of 400 MiB; Enter goes on")
        await pilot.press("enter")
        await shows(pilot, "Esc pauses")
        assert len(hub.asked) == 2
        await pilot.press("escape")
        await shows(pilot, "Paused")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelScreen))


async def test_leaving_the_program_stops_a_download() -> None:
    hub = Hub()
    async with downloads(hub) as pilot:
        await pilot.press("enter")
        await shows(pilot, "Esc pauses")
        await pilot.press("ctrl+q")
    assert hub.stopped.wait(PATIENCE)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("org/m\x1b[2J is gated."), "org/m␛[2J is gated."),
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    ],
)
async def test_a_download_that_fails(error: Exception, sentence: str) -> None:
    hub = Hub()
    hub.error = error
    hub.gate.set()
    async with downloads(hub) as pilot:
        await pilot.press("enter")
        await shows(pilot, sentence)
        assert isinstance(pilot.app.screen, DownloadScreen)


async def test_the_filter_and_names_that_are_not_in_the_list() -> None:
    hub = Hub()
    hub.gate.set()
    async with downloads(hub) as pilot:
        table = pilot.app.screen.query_one(DataTable)
        await pilot.press(*"qwen 4b")
        await until(pilot, lambda: table.row_count == 1)
        await pilot.press(*"x")
        await shows(pilot, "No such model in the list")
        await pilot.press("enter")
        await shows(pilot, "'qwen 4bx' is not the name of a model")
        pilot.app.screen.query_one(Input).value = "org/other:q8_0"
        await until(pilot, lambda: table.row_count == 0)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelScreen))
    assert hub.asked == ["org/other:q8_0"]


async def test_what_is_in_the_cache_already(tmp_path: Path) -> None:
    folder = tmp_path / "models--bartowski--Llama-3.2-1B-Instruct-GGUF" / "snapshots" / "a"
    folder.mkdir(parents=True)
    (folder / "Llama-3.2-1B-Instruct-Q4_K_M.gguf").write_bytes(b"GGUF")
    async with downloads(Hub()) as pilot:
        lines = screen_text(pilot).splitlines()
        assert [line for line in lines if "is here" in line] == [
            line for line in lines if "Llama 3.2 1B" in line
        ]


class Bare(App[int]):
    """The screen without a chat below it."""

    CSS_PATH = Path(llama_cpu.tui.app.__file__).with_name("app.tcss")


@pytest.mark.parametrize("size", [(20, 6), (40, 12)])
async def test_small_windows(size: tuple[int, int]) -> None:
    hub, app = Hub(), Bare()
    async with app.run_test(size=size) as pilot:
        app.push_screen(DownloadScreen(hub.pull))
        await until(pilot, lambda: isinstance(app.screen, DownloadScreen))
        await pilot.press("down", "enter")
        await shows(pilot, "100 MiB of")
        await pilot.press("escape", "escape")
        await until(pilot, lambda: not isinstance(app.screen, DownloadScreen))


def test_speed() -> None:
    speed = Speed()
    for second in range(30):
        speed.add(second, 5 * MIB + min(second, 20) * MIB, "a")
    assert speed.rate == MIB / 10  # 1 MiB in the last 10 seconds
    speed.add(30, MIB, "checking a")
    assert speed.rate == 0
    speed.add(31, 3 * MIB, "checking a")
    assert speed.rate == 2 * MIB
    text = progress_text(3 * MIB, 5 * MIB, "a", 2 * MIB, 10)
    assert "\n━━━━━━┄┄┄┄\na; Esc pauses." in text
    assert "3.0 MiB of 5.0 MiB  ·  60%  ·  2.0 MiB/s  ·  about 1.0 s left" in text
