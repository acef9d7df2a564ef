"""Every screen of the app as it can be brought up again and again, to take pictures of it.

A scene is a session and what is done in it. Whatever else a screen shows (the day, the memory, how
long loading takes, the models on the disk) is made up here, so that it is the same everywhere.
"""

import datetime
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from llama_cpu.errors import Cancelled
from llama_cpu.generation.events import Finished, Prefill, StopReason
from llama_cpu.history.rows import Run, State, StoredConversation, StoredMessage, first_words
from llama_cpu.history.store import History
from llama_cpu.loading.discovery import FoundModel, ModelFacts
from llama_cpu.loading.memory_estimate import MemoryEstimate
from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.paging import PagingReport
from llama_cpu.tui.app import ChatApp
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.number_format import PANEL_WIDTH
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.widgets.loading_bar import LoadingBar
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.weight_format import WeightFormat
from tests.tui.driving import screen, screen_text, until
from tests.tui.fakes import PATIENCE, FakePlan, FakeSession, Step, opener, planner, script, tokens
from tests.tui.lens_words import looks

MIB, GIB = 1 << 20, 1 << 30
TODAY = datetime.date(2026, 3, 6)
MARKDOWN = """\
# Foxes in the snow

A fox hears a *mouse* under **60 cm** of snow, and then:

1. turns its ears,
2. jumps, best to the `north-east`.

| season | coat |
| --- | --- |
| winter | thick, and often much paler at the sides |
| summer | thin |

```python
def leap(distance: float) -> float:
    \"\"\"How long it flies, in seconds.\"\"\"
    return (2 * distance / 9.81) ** 0.5  # as high as it is far
```

> Nobody knows why north-east: 狐狸 may know, and so may الثعالب.
"""


class Sees(str):
    """A step of a scene: wait until this text is on the screen."""


@dataclass(frozen=True)
class Scene:
    """``steps``: keys, and what must be there before the next one is pressed."""

    session: Callable[[], FakeSession] = FakeSession
    steps: tuple[str, ...] = ()
    is_demo: bool = False
    is_first: bool = False  # the very first start
    is_loading: bool = False  # for as long as the scene lasts
    is_answering: bool = False  # the same
    in_colour: bool = True
    with_panels: bool = True


# The conversations


def message(id: int, parent: int | None, role: str, text: str, **further: Any) -> StoredMessage:
    model = "Test model" if role == "assistant" else ""
    plain = StoredMessage(id, 0, parent, role, text, State.COMPLETE, model, 0.0, (), (), ())
    return replace(plain, **further)


def kept(history: History, days_ago: int, *messages: StoredMessage) -> int:
    """A conversation of some days ago, at noon by any clock."""
    day = TODAY - datetime.timedelta(days=days_ago)
    at = datetime.datetime.combine(day, datetime.time(12)).timestamp()
    last = messages[-1].id
    title = first_words(messages[0].text)
    blank = StoredConversation(0, title, False, "Test model", {}, at, at, last, len(messages))
    return history.add_copy(blank, messages).id


def a_talk() -> FakeSession:
    """Markdown, code, a second answer to one message, and an answer that was cut off."""
    session = FakeSession(context_used=1234)
    talk = kept(
        session.history,
        0,
        message(1, None, "user", "Tell me about foxes.\nWith [bold]figures[/], please."),
        message(2, 1, "assistant", "They are red."),
        message(3, 1, "assistant", MARKDOWN),
        message(4, 3, "user", "And hares?"),
        message(5, 4, "assistant", "Hares do not dig burrows; they", state=State.CUT),
    )
    session.conversation.open(talk)
    return session


def thoughtful_talk() -> FakeSession:
    """An answer with the model's thinking before it."""
    session = FakeSession()
    thinking = "<think>\nAll men are mortal.\n\nSocrates is a man.\n</think>\n\n"
    talk = kept(
        session.history,
        0,
        message(1, None, "user", "Is Socrates mortal?"),
        message(2, 1, "assistant", f"{thinking}Yes, Socrates is **mortal**."),
    )
    session.conversation.open(talk)
    return session


def several_talks() -> FakeSession:
    """What a list has to show."""
    session = FakeSession()
    for days_ago, text in (
        (90, "How do I join two tables in SQL when the names of their columns differ?"),
        (1, "Geese in the snow"),
        (1, "雪の中の狐について教えてください"),
        (0, "Foxes in the snow"),
    ):
        words = (
            message(1, None, "user", text),
            message(2, 1, "assistant", "All that I know of it is little."),
        )
        latest = kept(session.history, days_ago, *words)
    session.conversation.open(latest)
    return session


def timed_talk() -> FakeSession:
    """Three answers with the time of every token; the second one has a slow token, and the last
    was continued."""
    session = FakeSession(context_used=812)

    def answer(id: int, runs: tuple[Run, ...], count: int, slowest: float) -> StoredMessage:
        seconds = array("f", [0.02 + 0.003 * (place * 7 % 11) / 11 for place in range(count)])
        seconds[count // 2] = slowest
        ids = range(count)
        words = "Of foxes much is known." if id < 6 else "Hares are faster, and they know it."
        return message(
            id, id - 1, "assistant", words, token_ids=ids, token_seconds=seconds, runs=runs
        )

    talk = kept(
        session.history,
        0,
        message(1, None, "user", "Tell me about foxes."),
        answer(2, (Run(0, 0, 60, 0.9),), 90, 0.03),
        message(3, 2, "user", "More."),
        answer(4, (Run(0, 150, 12, 0.2, drafted=30),), 240, 0.12),
        message(5, 4, "user", "And hares?"),
        answer(6, (Run(0, 400, 9, 0.3), Run(40, 449, 1, 0.02)), 70, 0.04),
    )
    session.conversation.open(talk)
    return session


def looked_at() -> FakeSession:
    """An answer as the token lens shows it."""
    session = a_talk()
    session.looks = [looks()]
    return session


class KeepingCache(FakeSession):
    """Its KV cache is written without end."""

    has_unsaved_cache = True

    def save_cache(self, on_progress: Callable[..., None], stop: threading.Event) -> None:
        on_progress(50 * MIB, 100 * MIB)
        stop.wait(PATIENCE)


class ReadingCache(KeepingCache):
    """It is read without end."""

    has_unsaved_cache = False

    def prepare_cache(self, on_progress: Callable[..., None], stop: threading.Event) -> None:
        self.save_cache(on_progress, stop)


def one_answer() -> FakeSession:
    """A whole answer to come, with its figures."""
    return FakeSession([script("Paris is the capital of France.")])


def stuck(*before: Step) -> Callable[[], FakeSession]:
    """An answer that comes no further."""
    return lambda: FakeSession([[*before, threading.Event(), Finished(StopReason.STOPPED)]])


def failing() -> FakeSession:
    ending = Finished(StopReason.FAILED, message="The logits are not numbers: damaged weights?")
    return FakeSession([[*script("It was a")[:-1], ending]])


PROMPT = (*"What?", "enter")
READING = (Prefill(0, 512, 2048, 3.0),)
THINKING = (Prefill(3, 8, 8, 0.1), *tokens("<think>\nAll men are mortal. Socrates"))
WRITING = (Prefill(3, 8, 8, 0.1), *tokens("It begins with a list:\n\n- one\n- two"))

# Every screen; a new one is a line here (and one in docs/make_screenshots.py).
SCENES = {
    "loading": Scene(is_loading=True, steps=(Sees("25%"),)),
    "welcome": Scene(is_first=True, steps=(Sees("Begin"),)),
    "chat": Scene(is_demo=True, steps=(Sees("A small model"),)),
    "chat_talk": Scene(a_talk, steps=(Sees("cut off"),)),
    "chat_top": Scene(a_talk, steps=(Sees("cut off"), *["pageup"] * 3, Sees("2/2"))),
    "chat_reading": Scene(
        stuck(*READING), steps=(*PROMPT, Sees("is reading the prompt")), is_answering=True
    ),
    "chat_writing": Scene(stuck(*WRITING), steps=(*PROMPT, Sees("two")), is_answering=True),
    "chat_thinking": Scene(
        stuck(*THINKING), steps=(*PROMPT, Sees("Thinking… 5 words")), is_answering=True
    ),
    "chat_thought": Scene(thoughtful_talk, steps=(Sees("Thought for 8 words"),)),
    "chat_thought_shown": Scene(thoughtful_talk, steps=("alt+t", Sees("Socrates is a man."))),
    "chat_answered": Scene(one_answer, steps=(*PROMPT, Sees("France."))),
    "chat_failed": Scene(failing, steps=(*PROMPT, Sees("damaged"))),
    "chat_no_panels": Scene(one_answer, steps=(*PROMPT, Sees("France.")), with_panels=False),
    "chat_reading_cache": Scene(ReadingCache, steps=(Sees("50% of 100 MiB"),)),
    "editing": Scene(a_talk, steps=("alt+up", "alt+up", "e", Sees("Editing"), Sees("2 tokens"))),
    "chosen_answer": Scene(a_talk, steps=("alt+up", Sees("Edit"))),
    "slash": Scene(steps=("slash", Sees("/regenerate"))),
    "find": Scene(a_talk, steps=("ctrl+f", *"snow", Sees("2 of 2"))),
    "sidebar": Scene(several_talks, steps=("ctrl+b", Sees("Geese"), Sees("Rename"))),
    "sidebar_search": Scene(
        several_talks, steps=("ctrl+b", Sees("Geese"), "slash", *"litt", Sees("is little"), "enter")
    ),
    "ask": Scene(several_talks, steps=("ctrl+b", Sees("Geese"), "r", Sees("Title"))),
    "confirm": Scene(several_talks, steps=("ctrl+b", Sees("Geese"), "d", Sees("Delete “"))),
    "settings": Scene(steps=("f2", Sees("temperature"))),
    "settings_wrong": Scene(steps=("f2", "tab", "tab", *"999", Sees("999"), Sees("must"))),
    "models": Scene(steps=("f3", Sees("damaged"), Sees("32 B"))),
    "downloads": Scene(
        steps=("f3", Sees("damaged"), Sees("32 B"), "d", Sees("Mistral 7B")),
        with_panels=False,  # the seconds that it takes would be seen in them
    ),
    "figures": Scene(timed_talk, steps=("f7", Sees("Decode: "))),
    "figures_end": Scene(timed_talk, steps=("f7", Sees("Decode: "), "end", Sees("Paging"))),
    "figures_answer": Scene(timed_talk, steps=("f7", "right", "right", "l", Sees("answer 2 of 3"))),
    "figures_none": Scene(steps=("f7", Sees("Nothing was measured yet"))),
    "lens": Scene(looked_at, steps=("f4", Sees("6 tokens"), "right", "right")),
    "leaving": Scene(KeepingCache, steps=("ctrl+q", Sees("50.0 MiB of 100 MiB"))),
    "help": Scene(steps=("f1", Sees("Everywhere"))),
    "palette": Scene(steps=("ctrl+p", Sees("Quit"))),
    "no_colour": Scene(a_talk, steps=(Sees("cut off"),), in_colour=False),
    "no_colour_thought": Scene(
        thoughtful_talk, steps=(Sees("Thought for 8 words"),), in_colour=False
    ),
    "no_colour_sidebar": Scene(
        several_talks, steps=("ctrl+b", Sees("Geese"), Sees("Rename")), in_colour=False
    ),
    "no_colour_figures": Scene(timed_talk, steps=("f7", Sees("Decode: ")), in_colour=False),
    "no_colour_lens": Scene(
        looked_at, steps=("f4", Sees("6 tokens"), "right", "right"), in_colour=False
    ),
    "no_colour_models": Scene(steps=("f3", Sees("damaged"), Sees("32 B")), in_colour=False),
}


# The made-up machine


class Day(datetime.date):
    @classmethod
    def today(cls) -> "Day":
        return cls(TODAY.year, TODAY.month, TODAY.day)


MEMORY = MemoryReport(412 * MIB, 431 * MIB, 262 * MIB, 150 * MIB, 9 * GIB, 16 * GIB)


def takes(weights: int) -> dict[WeightFormat, MemoryEstimate]:
    return {
        precision: MemoryEstimate(weights // share, 1 * GIB, 300 * MIB)
        for precision, share in zip(FORMATS, (1, 2, 4, 6, 2), strict=True)
    }


MODELS = {
    "Llama-2-7b-chat": ModelFacts(
        "LLaMA, 32 layers, 4096 wide", 6_738_000_000, "float16", takes(25 * GIB)
    ),
    "SmolLM2-135M-Instruct (demo)": ModelFacts("llama", 135_000_000, "Q4_1", takes(513 * MIB)),
    "damaged.gguf": ModelFacts(problem="~/models/damaged.gguf ends too early; fetch it again."),
    "codellama-34b": ModelFacts("llama", 32_500_000_000, "bfloat16", takes(121 * GIB)),
}


def find_models() -> list[FoundModel]:
    return [FoundModel(Path("~/models") / name, name) for name in MODELS]


@pytest.fixture
def made_up_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same day, memory, folders and models everywhere, and nothing that time changes."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    changes = {
        "widgets.sidebar.datetime": SimpleNamespace(date=Day),
        "screens.chat.memory_report": lambda: MEMORY,
        "screens.figures.memory_report": lambda: MEMORY,
        "screens.figures.processor_name": lambda: "Made-up Processor 9000 @ 2.40 GHz",
        "controllers.panels.paging_report": lambda: PagingReport(0, 0, 0),
        "screens.models.available_memory": lambda: 9 * GIB,
        "screens.downloads.available_memory": lambda: 3 * GIB,
        "screens.downloads.cached_model": lambda reference: None,
        "widgets.loading_bar.time": SimpleNamespace(monotonic=lambda: 100.0),
    }
    for name, change in changes.items():
        monkeypatch.setattr(f"llama_cpu.tui.{name}", change)
    monkeypatch.setattr(
        "llama_cpu.loading.discovery.facts_of", lambda found, kv_int8: MODELS[found.name]
    )


# The picture


def slowly(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
    """Loads until it is stopped."""
    on_progress(300 * MIB, 1200 * MIB, "layers.7.feed_forward.w1.weight")
    stop.wait(PATIENCE)
    raise Cancelled


def app_of(scene: Scene, folder: Path) -> ChatApp:
    """``folder``: an empty one."""
    marker = folder / "welcomed" if scene.is_first else None
    preferences = Preferences(panels=scene.with_panels, welcome_marker=marker)
    session = scene.session()
    plan_model = planner(
        slowly if scene.is_loading else opener(session), FakePlan(is_demo=scene.is_demo)
    )
    models = ModelSource(find_models)
    return ChatApp(session.conversation, plan_model, preferences, models, scene.is_demo)


async def play(scene: Scene, pilot: Pilot[int]) -> None:
    """Do what the scene is, and wait until all is still."""
    app = pilot.app
    await until(pilot, lambda: any(isinstance(each, ChatScreen) for each in app.screen_stack))
    if scene.is_loading:
        bar = await _loading_bar(pilot)
        bar._started = 100 - 30
    else:
        await until(pilot, lambda: screen(pilot).has_model)
    for step in scene.steps:
        if isinstance(step, Sees):
            await _until_seen(pilot, step)
        else:
            await pilot.press(step)
    for field in app.screen.query(Input):
        field.cursor_blink = False
    for chat in app.screen_stack:
        if isinstance(chat, ChatScreen):
            await _until_busy(pilot, chat, scene.is_answering)
            chat.show_timings()
            for _ in range(PANEL_WIDTH):  # the seconds gone by
                chat._show_memory()
    await pilot.pause()


async def _loading_bar(pilot: Pilot[int]) -> LoadingBar:
    await until(pilot, lambda: bool(pilot.app.screen.query(LoadingBar)))
    bar = pilot.app.screen.query_one(LoadingBar)
    await until(pilot, lambda: bar._progress[1] > 0)
    return bar


async def _until_seen(pilot: Pilot[int], text: str) -> None:
    await until(pilot, lambda: text in screen_text(pilot))


async def _until_busy(pilot: Pilot[int], chat: ChatScreen, is_busy: bool) -> None:
    await until(pilot, lambda: chat.answering.is_busy == is_busy)
