"""KV caches from and to the disk, as the app shows it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cpu.chat.lens import LensPart
from llama_cpu.history.store import History
from llama_cpu.kv_store.index import file_path
from llama_cpu.system.paths import kv_folder
from llama_cpu.tui.controllers import cache_work
from llama_cpu.tui.screens.leaving import LeavingScreen
from tests.support.conversations import id_of
from tests.tui.driving import NARROW, WIDE, ask_and_wait, chat, prompt, screen, screen_text, until
from tests.tui.fakes import PATIENCE, FakeMessage, FakeSession, script


class SlowSession(FakeSession):
    """Half of the work is done at once, the rest when the test says so, or it is stopped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.go_on = threading.Event()
        self.prepared: list[int | None] = []
        self.kept = self.was_stopped = False

    def _work(self, on_progress: Callable[..., None], stop: threading.Event) -> None:
        on_progress(50 << 20, 100 << 20)
        for _ in range(PATIENCE * 100):
            if stop.is_set() or self.go_on.wait(0.01):
                break
        self.was_stopped = stop.is_set()

    def prepare_cache(self, on_progress: Callable[..., None], stop: threading.Event) -> None:
        self.prepared.append(self.conversation.stored_id)
        self._work(on_progress, stop)

    def save_cache(self, on_progress: Callable[..., None], stop: threading.Event) -> None:
        self._work(on_progress, stop)
        self.kept = not self.was_stopped


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_work, "PATIENCE", 0.05)


def is_reading(pilot) -> bool:
    return "KV cache and disk: 50% of 100 MiB" in str(prompt(pilot).border_subtitle)


async def test_reading_at_the_start_is_shown_and_esc_skips_it() -> None:
    session = SlowSession([script("Answer.")])
    async with chat(session, NARROW) as pilot:
        await until(pilot, lambda: is_reading(pilot))
        await until(pilot, lambda: "Esc skips" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: not screen(pilot).cache_work.is_active)
        await until(pilot, lambda: not prompt(pilot).border_subtitle)
        assert session.was_stopped
        await ask_and_wait(pilot, "one")
        assert len(session.messages) == 2


async def test_leaving_does_not_wait_for_what_is_being_read() -> None:
    session = SlowSession()
    async with chat(session) as pilot:
        await until(pilot, lambda: is_reading(pilot))
        await pilot.press("ctrl+q")
    assert pilot.app.return_value == 0 and session.was_stopped


async def test_what_ends_the_app_otherwise_does_not_wait_for_the_disk() -> None:
    session = SlowSession()
    session.has_unsaved_cache = True
    async with chat(session) as pilot:
        await until(pilot, lambda: is_reading(pilot))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, LeavingScreen))
        pilot.app.exit(1)
    assert session.was_stopped and not session.kept


async def test_an_answer_waits_for_what_is_being_read() -> None:
    session = SlowSession([script("Answer.")])
    async with chat(session) as pilot:
        await until(pilot, lambda: is_reading(pilot))
        prompt(pilot).insert("one")
        await pilot.press("enter")
        await until(pilot, lambda: len(session.messages) == 1)
        await until(pilot, lambda: "is reading the prompt" in screen_text(pilot))
        session.go_on.set()
        await until(pilot, lambda: len(session.messages) == 2)
        assert not session.was_stopped


async def test_every_other_conversation_is_prepared(tmp_path: Path) -> None:
    earlier = [FakeMessage("user", "one"), FakeMessage("assistant", "two")]
    session = SlowSession(earlier=earlier, history=History(tmp_path / "history.db"))
    session.go_on.set()
    first = id_of(session.conversation)
    async with chat(session, WIDE) as pilot:
        await until(pilot, lambda: session.prepared == [first])
        await pilot.press("ctrl+n")
        await until(pilot, lambda: session.prepared == [first, None])
        stored = session.history.get(first)
        await screen(pilot).library.open(stored)
        await until(pilot, lambda: session.prepared == [first, None, first])
    session.history.close()


async def test_leaving_is_quick_where_there_is_nothing_to_keep() -> None:
    session = SlowSession()
    session.go_on.set()
    async with chat(session) as pilot:
        await pilot.press("ctrl+q")
        assert pilot.app.return_value == 0 and not session.kept


@pytest.mark.parametrize("size", [NARROW, (200, 60)])
async def test_leaving_shows_what_it_waits_for(size: tuple[int, int]) -> None:
    session = SlowSession()
    session.has_unsaved_cache = True
    async with chat(session, size) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: "50.0 MiB of 100 MiB" in screen_text(pilot))
        await until(pilot, lambda: "Esc quits without saving it." in screen_text(pilot))
        assert pilot.app.return_value is None
        session.go_on.set()
        await until(pilot, lambda: pilot.app.return_value == 0)
        assert session.kept


@pytest.mark.parametrize("key", ["escape", "ctrl+q"])
async def test_leaving_at_once(key: str) -> None:
    session = SlowSession()
    session.has_unsaved_cache = True
    async with chat(session) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, LeavingScreen))
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.return_value == 0)
        assert not session.kept


async def test_leaving_while_an_answer_is_written() -> None:
    gate = threading.Event()
    session = SlowSession([[*script("Half")[:-1], gate, *script("rest")]])
    session.go_on.set()
    async with chat(session) as pilot:
        prompt(pilot).insert("one")
        await pilot.press("enter")
        await until(pilot, lambda: session.context_used > 1)
        session.has_unsaved_cache = True
        await pilot.press("ctrl+q")
        await until(pilot, lambda: pilot.app.return_value == 0)
        assert session.kept and session.messages[-1].text == "Half"


@pytest.mark.parametrize("again", [False, True])
async def test_leaving_while_the_lens_reads(again: bool) -> None:
    """What it reads is not waited for; asked again, not for the disk either."""
    reading = threading.Event()
    session = SlowSession([script("Yes")], looks=[[LensPart(0, 9), reading]])
    session.go_on.set()
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "one")
        await pilot.press("f4")
        await until(pilot, lambda: "reading 0 of 9" in screen_text(pilot))
        session.has_unsaved_cache = True
        if again:
            session.go_on.clear()
        await pilot.press("ctrl+q")
        if again:
            await until(pilot, lambda: isinstance(pilot.app.screen, LeavingScreen))
            await pilot.press("f1", "ctrl+q")  # the help is over it
        await until(pilot, lambda: pilot.app.return_value == 0)
    assert session.kept != again


async def test_a_fault_does_not_keep_one_from_leaving() -> None:
    session = SlowSession()
    session.has_unsaved_cache = True

    def fails(on_progress: Callable[..., None], stop: threading.Event) -> None:
        raise RuntimeError("broken")

    session.save_cache = session.prepare_cache = fails  # type: ignore[method-assign]
    async with chat(session) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: pilot.app.return_value == 0)


@pytest.fixture
def session_with_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SlowSession, Path]]:
    """A conversation of two turns, and its KV cache on the disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with History(tmp_path / "history.db") as history:
        turns = [FakeMessage("user", "one"), FakeMessage("assistant", "two")] * 2
        session = SlowSession(earlier=turns, history=history)
        session.go_on.set()
        assert history.file and session.conversation.stored_id
        path = file_path(kv_folder(), history.file, session.conversation.stored_id)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        yield session, path


async def test_a_deleted_turn_is_not_left_in_the_file(
    session_with_file: tuple[SlowSession, Path],
) -> None:
    """Also where the cache would not be written, as nothing was computed."""
    session, path = session_with_file
    async with chat(session) as pilot:
        await pilot.press("alt+d")
        await until(pilot, lambda: len(pilot.app.screen_stack) > 2)
        assert path.exists()
        await pilot.press("y")
        await until(pilot, lambda: len(session.messages) == 2)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: pilot.app.return_value == 0)
    assert not path.exists()


async def test_a_deleted_conversation_takes_its_file_along(
    session_with_file: tuple[SlowSession, Path],
) -> None:
    session, path = session_with_file
    history = session.history
    async with chat(session) as pilot:
        stored = history.get(id_of(session.conversation))
        work = pilot.app.run_worker(screen(pilot).library.delete(stored))
        await until(pilot, lambda: len(pilot.app.screen_stack) > 2)
        await pilot.press("y")
        await until(pilot, lambda: work.is_finished)
        assert history.conversations() == []
    assert not path.exists()
