"""Loading at the start: progress, cancelling, and files that cannot be used."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from llama_cpu.chat.conversation import Conversation
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.history.store import History
from llama_cpu.tui.app import ChatApp, run_app
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.loading import progress_text
from llama_cpu.tui.widgets.loading_bar import LoadingBar, progress_line
from tests.tui.driving import conversation, screen_text, until
from tests.tui.fakes import PATIENCE, FakeSession, opener, planner


def any_app() -> ChatApp:
    session = FakeSession()
    return ChatApp(session.conversation, planner(opener(session)), is_demo=True)


class SlowOpener:
    """Loads for ever, until it is stopped."""

    def __init__(self) -> None:
        self.was_stopped = False

    def __call__(self, on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        on_progress(50 << 20, 200 << 20, "layers.3.[bold]wq[/]")
        self.was_stopped = stop.wait(PATIENCE)
        raise Cancelled


@pytest.mark.parametrize("key", ["escape", "ctrl+q"])
async def test_loading_can_be_cancelled(key: str) -> None:
    opening = SlowOpener()
    app = ChatApp(Conversation(History(None)), planner(opening))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "50.0 MiB of 200 MiB" in screen_text(pilot))
        assert "Loading Test model (float32)" in screen_text(pilot)
        assert "layers.3.[bold]wq[/]" in str(pilot.app.screen.query_one(LoadingBar).render())
        await pilot.press(key)
    app.close()
    assert app.return_value == 130
    assert opening.was_stopped


@pytest.mark.parametrize("error", [UserError("params.json is missing."), RuntimeError("bug")])
async def test_what_loading_raises_closes_the_app(error: Exception) -> None:
    def broken(on_progress: object, stop: object) -> FakeSession:
        raise error

    app = ChatApp(Conversation(History(None)), planner(broken))
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.failure is not None)
    app.close()
    assert app.failure is error


@pytest.mark.parametrize("error", [UserError("params.json is missing."), RuntimeError("bug")])
def test_run_app_passes_the_failure_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(app: ChatApp) -> None:
        app.failure = error

    monkeypatch.setattr(ChatApp, "run", run)
    with pytest.raises(type(error), match=str(error)):
        run_app(any_app())


@pytest.mark.parametrize("debug", [False, True])
def test_where_answers_failed_is_printed_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def run(app: ChatApp) -> int:
        app.answer_errors.append(RuntimeError("shapes do not match"))
        return 0

    monkeypatch.setattr(ChatApp, "run", run)
    assert run_app(any_app(), debug) == 0
    assert ("RuntimeError: shapes do not match" in capsys.readouterr().err) == debug


def test_run_app_returns_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatApp, "run", lambda app: 130)
    assert run_app(any_app()) == 130


def test_progress_text() -> None:
    assert "opening the files" in progress_text(0, 0, "", 0)
    lines = progress_text(1 << 30, 4 << 30, "tok_embeddings.weight", 10.0).splitlines()
    assert lines[0].count("━") == len(lines[0]) // 4
    assert lines[1:] == [
        "25%  ·  1.0 GiB of 4.0 GiB  ·  about 30.0 s left",
        "tok_embeddings.weight",
    ]


@pytest.mark.parametrize("key", ["f1", "ctrl+p"])
async def test_what_is_opened_while_loading_stays_open(key: str) -> None:
    gate, session = threading.Event(), FakeSession()

    def opening(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        assert gate.wait(PATIENCE)
        return session

    app = ChatApp(session.conversation, planner(opening))
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        await pilot.press(key)
        await until(pilot, lambda: not isinstance(app.screen, ChatScreen))
        gate.set()
        await until(pilot, lambda: app.session is not None)
        assert len(app.screen_stack) == 3
    app.close()


@pytest.mark.parametrize("rounds", [0, 3, 8, 20])
async def test_quit_just_as_the_chat_appears(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    go_on = ChatApp.on_loading_bar_loaded

    async def quit_soon(app: ChatApp) -> None:
        for _ in range(rounds):  # of the event loop
            await asyncio.sleep(0)
        await app.action_quit()

    def loaded(app: ChatApp, message: LoadingBar.Loaded) -> None:
        go_on(app, message)
        quitting.append(asyncio.ensure_future(quit_soon(app)))

    quitting: list[asyncio.Future[None]] = []
    monkeypatch.setattr(ChatApp, "on_loading_bar_loaded", loaded)
    app = any_app()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.return_value is not None)
    app.close()
    assert app.return_value == 0


def test_waiting_for_kernels_is_said_in_place_of_a_tensor() -> None:
    waiting = "Compiling kernels for this processor (once), 3 of 7"
    text = progress_text(200 << 20, 200 << 20, waiting, 9.0)
    assert text.endswith(waiting)
    assert "left" not in text
    line = progress_line(" A", 200 << 20, 200 << 20, waiting, 9.0)
    assert line == f"Loading A {'━' * 12} {waiting}"
    assert "\n" not in line


async def test_warnings_of_the_load_are_shown() -> None:
    session = FakeSession()

    def opening(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        app.warn_user("Numba is missing.", UserWarning)
        app.warn_user("This is old.", DeprecationWarning)
        return session

    app = ChatApp(session.conversation, planner(opening))
    async with app.run_test() as pilot:
        await until(pilot, lambda: conversation(pilot) == ["Numba is missing."])
    app.close()
