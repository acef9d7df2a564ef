"""Every screen and dialog lives in windows down to 20x6, and a fault draws no traceback."""

from pathlib import Path

import pytest

from llama_cpu.cli.main import run_reporting_errors
from llama_cpu.tui.app import ChatApp, run_app
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.screens.chat import ChatScreen
from tests.tui.driving import chat, prompt, screen_text
from tests.tui.fakes import FakeSession, opener, planner
from tests.tui.lens_words import looks
from tests.tui.scenes import a_talk, find_models, made_up_machine  # noqa: F401
from tests.tui.walking import walk

SIZES = ((60, 12), (45, 12), (36, 20), (20, 6), (200, 50))


@pytest.mark.usefixtures("made_up_machine")
async def test_every_screen_lives_while_the_window_shrinks() -> None:
    session = a_talk()
    session.looks = [looks()]
    async with chat(session, (200, 50), models=ModelSource(find_models)) as pilot:
        async for stop in walk(pilot):
            for size in SIZES:
                await pilot.resize_terminal(*size)
                await pilot.pause()
                if stop.shows is ChatScreen:
                    box = prompt(pilot).region
                    assert box.height > 1 and box.bottom <= size[1], (stop.name, size)
            assert screen_text(pilot).strip(), stop.name


@pytest.mark.parametrize("size", [(40, 12), (36, 20), (20, 6)], ids=str)
async def test_a_small_window_from_the_start(size: tuple[int, int]) -> None:
    async with chat(FakeSession(), size, is_demo=True) as pilot:
        await pilot.press(*"Hello")
        assert "Hello" in screen_text(pilot) and prompt(pilot).region.bottom <= size[1]


@pytest.mark.usefixtures("made_up_machine")
async def test_the_question_can_be_read_and_answered_at_20_by_6() -> None:
    async with chat(a_talk(), (20, 6)) as pilot:
        await pilot.press("alt+d")
        await pilot.pause(0.1)
        assert "Keep (n)" in screen_text(pilot)


def any_app() -> ChatApp:
    session = FakeSession()
    return ChatApp(session.conversation, planner(opener(session)))


async def test_a_fault_ends_the_app_without_a_traceback_on_the_screen() -> None:
    app = any_app()
    try:
        with pytest.raises(ZeroDivisionError):
            async with app.run_test() as pilot:
                app.call_later(lambda: 1 / 0)
                await pilot.pause()
    finally:
        app.close()
    assert isinstance(app.fault, ZeroDivisionError) and not app._exit_renderables


def test_a_fault_is_one_sentence_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(app: ChatApp) -> None:
        app._exception = ZeroDivisionError("drawing\x1b[2J")

    monkeypatch.setattr(ChatApp, "run", run)
    code = run_reporting_errors(lambda: run_app(any_app()), debug=False)
    [line] = capsys.readouterr().err.splitlines()
    assert code == 1 and "\x1b" not in line and "Traceback" not in line
    log = Path(line.partition("its traceback is in ")[2].removesuffix(")."))
    assert "ZeroDivisionError" in log.read_text() and log.stat().st_mode & 0o077 == 0
    with pytest.raises(ZeroDivisionError):
        run_reporting_errors(lambda: run_app(any_app()), debug=True)
