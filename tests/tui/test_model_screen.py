"""The models on this computer, and going on with another one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.loading.discovery import FoundModel, ModelFacts
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.screens.help import HelpScreen
from llama_cpu.tui.screens.leaving import LeavingScreen
from llama_cpu.tui.screens.loading import LoadingScreen
from llama_cpu.tui.screens.models import ModelScreen, count, needed
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, tiny_config, write_gguf
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
    until,
)
from tests.tui.fakes import PATIENCE, FakeChoice, FakePlan, FakeSession, script, tokens
from tests.tui.scenes import KeepingCache

MIB = 1 << 20
Opening = Callable[..., FakeSession]


@dataclass
class Models:
    """Stands for the files: which models there are, and what loading one does."""

    opening: Opening
    needed: int = 10 * MIB
    problem: str = ""
    asked: list[tuple] = field(default_factory=list)
    first: Opening | None = None  # loads the model of the start again
    gate: threading.Event | None = None  # until then the files are looked at

    def find(self) -> list[FoundModel]:
        return [FoundModel(Path("/models/test"), "Test"), FoundModel(Path("/m/o"), "Other [b]")]

    def choose(
        self, path: Path, name: str, precision: WeightFormat, free: int | None
    ) -> FakeChoice:
        self.asked.append((str(path), name, precision, free is None))
        assert self.gate is None or self.gate.wait(PATIENCE)
        if self.problem:
            raise UserError(self.problem)
        opening = self.opening if path != FakePlan().source else self.first
        assert opening
        return FakeChoice(FakePlan(name, path, precision), self.needed, opening)

    @property
    def source(self) -> ModelSource:
        return ModelSource(self.find, self.choose)


def opens(session: FakeSession, of: FakeSession) -> Opening:
    def open_session(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        session.conversation = of.conversation
        return session

    return open_session


class Slow:
    """Loads until it is stopped."""

    def __call__(self, on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        on_progress(1, 2, "w")
        stop.wait(PATIENCE)
        raise Cancelled


def fails(error: Exception) -> Opening:
    def open_session(on_progress: object, stop: object) -> FakeSession:
        raise error

    return open_session


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MiB are free."""
    monkeypatch.setattr(
        "llama_cpu.tui.controllers.model_switch.available_memory", lambda: 100 * MIB
    )


async def choose_other(pilot: Pilot[int]) -> None:
    await pilot.press("f3")
    await until(pilot, lambda: isinstance(pilot.app.screen, ModelScreen))
    await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count == 2)
    await pilot.press("down", "right", "enter")


async def test_models_are_listed_with_what_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a longer path would break lines elsewhere
    config = tiny_config()
    good = write_gguf(Path("good.gguf"), config, random_weights(config))
    Path("bad.gguf").write_bytes(b"GGUF\x1b[2J")
    found = [
        FoundModel(good, "[red]good[/] with a name that is far too long"),
        FoundModel(Path("bad.gguf"), "bad\x1b[2J\nname"),
    ]
    async with chat(FakeSession([]), NARROW, models=ModelSource(lambda: found)) as pilot:
        await pilot.press("f3")
        await until(pilot, lambda: "float32" in screen_text(pilot))
        await until(pilot, lambda: "30" in screen_text(pilot) and "MiB" in screen_text(pilot))
        shown = screen_text(pilot)
        assert "[red]good[/] with" in shown and "bad␛[2J name" in shown
        assert "of memory are free" in shown
        await until(pilot, lambda: "LLaMA, " in screen_text(pilot))
        await pilot.press("down")
        await until(pilot, lambda: "bad.gguf is" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: prompt(pilot).has_focus)


@pytest.mark.parametrize("kv_int8", [False, True])
async def test_the_memory_is_that_with_the_type_of_cache_of_the_start(
    kv_int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def facts_of(found: FoundModel, kv_int8: bool) -> ModelFacts:
        asked.append(kv_int8)
        return ModelFacts(problem="It is gone.")

    monkeypatch.setattr("llama_cpu.loading.discovery.facts_of", facts_of)
    source = ModelSource(lambda: [FoundModel(Path("m"), "m")], kv_int8=kv_int8)
    async with chat(FakeSession([]), models=source) as pilot:
        await pilot.press("f3")
        await until(pilot, lambda: "It is gone." in screen_text(pilot))
    assert asked == [kv_int8]


async def test_no_models() -> None:
    async with chat(FakeSession([])) as pilot:
        await pilot.press("f3")
        await until(pilot, lambda: "No models were found" in screen_text(pilot))
        await pilot.press("enter", "escape")
        await until(pilot, lambda: prompt(pilot).has_focus)


async def test_where_both_fit_the_old_one_stays_until_the_other_is_ready() -> None:
    old = FakeSession([script("Hello.")])
    new = FakeSession([script("And goodbye.")])
    new.model_name = "Other [b]"
    models = Models(opens(new, old))
    async with chat(old, models=models.source) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press(*"draft")
        await choose_other(pilot)
        await until(pilot, lambda: "answers from here on" in conversation(pilot)[-1])
        assert models.asked == [("/m/o", "Other [b]", BF16, False)]
        assert old.is_let_go and len(pilot.app.screen_stack) == 2
        assert conversation(pilot)[:2] == ["You\nHi", "Hello."]
        assert prompt(pilot).text == "draft" and prompt(pilot).has_focus
        await pilot.press("enter")
        await until(pilot, lambda: "And goodbye." in conversation(pilot))
        await until(pilot, lambda: not is_answering(pilot))
        prompt(pilot).clear()
        await pilot.press("up", "up")
        assert prompt(pilot).text == "Hi"  # what was sent before is still known
    assert new.is_closed


async def is_switched(pilot: Pilot[int], new: FakeSession) -> None:
    """The one chat is the new model's, with nothing over it."""
    await until(pilot, lambda: getattr(pilot.app.screen, "session", None) is new)
    await until(pilot, lambda: "answers from here on" in conversation(pilot)[-1])
    assert len(pilot.app.screen_stack) == 2 and prompt(pilot).has_focus


@pytest.mark.parametrize("key", ["f1", "f2", "f3", "f7", "ctrl+p"])
@pytest.mark.parametrize("needed", [10 * MIB, 150 * MIB])
async def test_what_is_opened_while_the_files_are_looked_at_is_closed(
    key: str, needed: int
) -> None:
    old, new = FakeSession(), FakeSession([script("Anew.")])
    models = Models(opens(new, old), needed=needed, gate=threading.Event())
    async with chat(old, models=models.source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: bool(models.asked))
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen is not screen(pilot))
        assert models.gate
        models.gate.set()
        if needed > 100 * MIB:
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            await pilot.press("y")
        await is_switched(pilot, new)
        assert old.is_let_go
        await ask_and_wait(pilot, "Hi")
        assert "Anew." in conversation(pilot)


@pytest.mark.parametrize("key", ["f1", "ctrl+p"])
@pytest.mark.parametrize("needed", [10 * MIB, 150 * MIB])
async def test_what_is_opened_while_it_is_loaded_is_closed(key: str, needed: int) -> None:
    old, new, gate = FakeSession(), FakeSession(), threading.Event()

    def opening(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        assert gate.wait(PATIENCE)
        return opens(new, old)(on_progress, stop)

    async with chat(old, models=Models(opening, needed=needed).source) as pilot:
        await choose_other(pilot)
        if needed > 100 * MIB:
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            await pilot.press("y")
        await until(pilot, lambda: isinstance(pilot.app.screen, LoadingScreen))
        await pilot.press(key)
        await until(pilot, lambda: not isinstance(pilot.app.screen, LoadingScreen))
        gate.set()
        await is_switched(pilot, new)


async def test_help_over_a_loading_that_fails() -> None:
    old, gate = FakeSession([script("Hello.")]), threading.Event()

    def opening(on_progress: object, stop: object) -> FakeSession:
        assert gate.wait(PATIENCE)
        raise UserError("o is damaged.")

    async with chat(old, models=Models(opening).source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: isinstance(pilot.app.screen, LoadingScreen))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        gate.set()
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        await until(pilot, lambda: conversation(pilot) == ["o is damaged."])
        assert len(pilot.app.screen_stack) == 2
        await ask_and_wait(pilot, "Hi")
        assert "Hello." in conversation(pilot)


async def test_the_model_that_was_chosen_last_is_loaded() -> None:
    old, new = FakeSession(), FakeSession()
    models = Models(opens(new, old), gate=threading.Event())
    async with chat(old, models=models.source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: len(models.asked) == 1)
        await choose_other(pilot)
        await until(pilot, lambda: len(models.asked) == 2)
        assert models.gate
        models.gate.set()
        await is_switched(pilot, new)
        await pilot.pause(0.1)
        assert screen(pilot).session is new and not new.is_closed


async def test_quit_while_the_files_are_looked_at() -> None:
    old = KeepingCache()
    models = Models(Slow(), gate=threading.Event())
    async with chat(old, models=models.source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: bool(models.asked))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, LeavingScreen))
        assert models.gate
        models.gate.set()
        await until(pilot, lambda: not any(w.group == "choice" for w in pilot.app.workers))
        assert isinstance(pilot.app.screen, LeavingScreen) and pilot.app.return_value is None
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.return_value == 0)


@pytest.mark.parametrize("error", [UserError("o is damaged."), RuntimeError("bug")])
async def test_a_loading_that_fails_leaves_the_old_model(error: Exception) -> None:
    old = FakeSession([script("Hello."), script("Still here.")])
    async with chat(old, models=Models(fails(error)).source) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press(*"draft")
        await choose_other(pilot)
        await until(pilot, lambda: str(error) in conversation(pilot)[-1])
        assert not old.is_let_go and prompt(pilot).text == "draft"
        await pilot.press("enter")
        await until(pilot, lambda: "Still here." in conversation(pilot))


async def test_a_loading_that_is_cancelled_leaves_the_old_model() -> None:
    old = FakeSession([script("Hello."), script("Still here.")])
    async with chat(old, models=Models(Slow()).source) as pilot:
        await ask_and_wait(pilot, "Hi")
        await choose_other(pilot)
        await until(pilot, lambda: isinstance(pilot.app.screen, LoadingScreen))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen(pilot))
        assert "not loaded" in conversation(pilot)[-1] and not old.is_let_go
        await ask_and_wait(pilot, "You?")
        assert "Still here." in conversation(pilot)


async def test_files_that_cannot_be_used_are_said_and_nothing_else_happens() -> None:
    old = FakeSession([])
    async with chat(old, models=Models(Slow(), problem="/m/o lacks a tokenizer.").source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: conversation(pilot) == ["/m/o lacks a tokenizer."])
        assert isinstance(pilot.app.screen, ChatScreen) and not old.is_let_go


async def test_where_both_do_not_fit_it_asks() -> None:
    old = FakeSession([script("Hello.")])
    async with chat(old, models=Models(Slow(), needed=150 * MIB).source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        assert "loaded again" in screen_text(pilot)
        await pilot.press("n")
        await until(pilot, lambda: prompt(pilot).has_focus)
        await ask_and_wait(pilot, "Hi")
        assert conversation(pilot) == ["You\nHi", "Hello."] and not old.is_let_go


async def go_on(pilot: Pilot[int]) -> None:
    await choose_other(pilot)
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
    await pilot.press("y")


async def test_the_old_one_goes_first_then() -> None:
    old, new = FakeSession([script("Hello.")]), FakeSession([script("Anew.")])
    models = Models(opens(new, old), needed=150 * MIB)
    async with chat(old, models=models.source) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press(*"draft")
        await go_on(pilot)
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await until(pilot, lambda: "answers from here on" in conversation(pilot)[-1])
        assert old.is_let_go and prompt(pilot).text == "draft"
        await pilot.press("enter")
        await until(pilot, lambda: "Anew." in conversation(pilot))


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_the_old_one_is_loaded_again(how: str) -> None:
    old, again = FakeSession([script("Hello.")]), FakeSession([script("Back.")])
    opening = Slow() if how == "cancelled" else fails(UserError("o is damaged."))
    models = Models(opening, needed=150 * MIB, first=opens(again, old))
    async with chat(old, models=models.source) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press(*"draft")
        await go_on(pilot)
        if how == "cancelled":
            await until(pilot, lambda: "50%" in screen_text(pilot))
            await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await until(pilot, lambda: len(conversation(pilot)) == 3)
        assert models.asked[-1] == ("/models/test", "Test model", FLOAT32, True)
        notice = "not loaded" if how == "cancelled" else "o is damaged."
        assert notice in conversation(pilot)[-1] and prompt(pilot).text == "draft"
        await pilot.press("enter")
        await until(pilot, lambda: "Back." in conversation(pilot))
    assert again.is_closed


async def test_where_the_old_one_cannot_be_loaded_again_the_app_says_why() -> None:
    old = FakeSession([script("Hello.")])
    models = Models(fails(UserError("o is damaged.")), needed=150 * MIB)
    models.first = fails(UserError("the disk is gone."))
    async with chat(old, models=models.source) as pilot:
        await go_on(pilot)
        await until(pilot, lambda: pilot.app.failure is not None)  # type: ignore[attr-defined]
    assert str(pilot.app.failure) == "the disk is gone."  # type: ignore[attr-defined]


async def test_quit_while_another_model_is_loaded() -> None:
    old = FakeSession([])
    async with chat(old, models=Models(Slow()).source) as pilot:
        await choose_other(pilot)
        await until(pilot, lambda: isinstance(pilot.app.screen, LoadingScreen))
        await pilot.press("ctrl+q")
    assert pilot.app.return_value == 0 and old.is_closed


async def test_an_answer_is_stopped_and_kept() -> None:
    old, new = FakeSession([[*tokens("Once upon"), threading.Event()]]), FakeSession([])
    async with chat(old, models=Models(opens(new, old)).source) as pilot:
        await ask(pilot, "A story")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once upon")
        await choose_other(pilot)
        await until(pilot, lambda: "answers from here on" in conversation(pilot)[-1])
        assert conversation(pilot)[:2] == ["You\nA story", "Once upon"]


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [(6_738_415_616, "6.7 B"), (134_515_008, "135 M"), (65e9, "65 B"), (900, "900")],
)
def test_counts(parameters: int, shown: str) -> None:
    assert count(parameters) == shown


def test_what_does_not_fit_has_a_sign() -> None:
    assert needed(2 * MIB, MIB) == "2.0 MiB!"
    assert needed(MIB, MIB) == "1.0 MiB"
