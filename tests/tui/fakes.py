"""A session that plays scripted events instead of running a model."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.lens import LensPart
from llama_cpu.chat.prompt import Message
from llama_cpu.chat.session_protocol import (
    LoadProgress,
    OpenSession,
    PlanModel,
    Progress,
    Session,
)
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.history.store import History
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.system.memory import MemoryReport
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.weight_format import WeightFormat

END = 99  # an end token's id
PATIENCE = 10  # seconds until a test that waits for something gives up


@dataclass
class FakePlan:
    name: str = "Test model"
    source: Path = Path("/models/test")
    precision: WeightFormat = FLOAT32
    is_demo: bool = False


@dataclass
class FakeChoice:
    """A model that was checked: its plan, the bytes it needs, and what loads it."""

    plan: FakePlan
    needed: int
    open_session: OpenSession


@dataclass
class FakeMessage:
    role: str
    text: str


Step = Event | threading.Event | Exception


def tokens(text: str) -> list[Step]:
    """One token per word, as a model would write them."""
    words = text.split(" ")
    return [
        Token(number, word if number == 0 else " " + word, 0.02)
        for number, word in enumerate(words)
    ]


def script(text: str, finished: Finished | None = None) -> list[Step]:
    """A whole answer."""
    ending = finished or Finished(StopReason.END)
    return [Prefill(reused=3, done=8, total=8, seconds=0.1), *tokens(text), ending]


@dataclass
class FakeSession:
    """Each answer plays the next script; a ``threading.Event`` in it waits until the test sets it
    or the answer is stopped, an exception is raised."""

    scripts: list[list[Step]] = field(default_factory=list)
    earlier: list[FakeMessage] = field(default_factory=list)
    history: History = field(default_factory=lambda: History(None))
    context_used: int = 0
    is_closed: bool = False
    is_let_go: bool = False
    looks: list[list[LensPart | threading.Event | Exception]] = field(default_factory=list)
    looked_at: list[StoredMessage] = field(default_factory=list)
    branches: list[tuple[StoredMessage, list[int], list[float]]] = field(default_factory=list)
    branch_error: Exception | None = None
    template_name: str = "chatml"
    template_guessed: bool = False
    settings: Settings = field(default_factory=Settings)
    default_settings: Settings = field(default_factory=Settings)
    model_settings: Settings = field(default_factory=Settings)

    model_name = "Test model"
    precision = "float32"
    weights_bytes = 100 << 20
    mapped_bytes = 0
    kv_cache_bytes = 50 << 20
    kv_cache_used_bytes = 5 << 20
    kv_cache_touched_bytes = 20 << 20
    freeable_bytes = 120 << 20
    context_size = 4096
    threads = 2

    def weights_resident_bytes(self, report: MemoryReport) -> int:
        return min(self.weights_bytes, report.resident // 4)

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.history, self.model_name)
        if self.earlier:
            conversation_id, parent = self.history.create(self.model_name).id, None
            for message in self.earlier:
                added = self.history.add_message(
                    conversation_id, parent, message.role, message.text
                )
                parent = added.id
            self.conversation.open(conversation_id)

    @property
    def messages(self) -> list[Message]:
        return [Message(each.role, each.text) for each in self.conversation.line]

    def apply(self, settings: Settings) -> None:
        if settings.template == "unheard-of":
            raise UserError("--template unheard-of: there is no such file.")
        self.settings = settings
        self.template_name = settings.template or "chatml"

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    has_unsaved_cache = False
    begins_in_thinking = False

    def prepare_cache(self, on_progress: Progress, stop: threading.Event) -> None:
        pass

    def save_cache(self, on_progress: Progress, stop: threading.Event) -> None:
        pass

    def let_go(self) -> None:
        self.is_let_go = True
        self.close()

    def close(self) -> None:
        self.is_closed = True

    def answer(self, stop: threading.Event) -> Iterator[Event]:
        yield from self.conversation.autosave_answer(self._play(stop), frozenset(), _as_they_are)

    def continue_answer(self, stop: threading.Event) -> Iterator[Event]:
        last = self.conversation.line[-1]
        events, ids = self._play(stop), last.token_ids
        yield from self.conversation.autosave_continuation(
            events, frozenset(), _as_they_are, last.text, ids
        )

    def look(self, answer: StoredMessage, stop: threading.Event) -> Iterator[LensPart]:
        """One part after the other of what ``looks`` has; an event in it waits."""
        self.looked_at.append(answer)
        for step in self.looks.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, threading.Event):
                while not (stop.is_set() or step.wait(0.01)):
                    pass
            elif not stop.is_set():
                yield step

    def is_own(self, answer: StoredMessage) -> bool:
        return answer.model == self.model_name

    def branch(self, answer: StoredMessage, token_ids: list[int], seconds: Sequence[float]) -> None:
        if self.branch_error:
            raise self.branch_error
        ids = token_ids
        self.branches.append((answer, ids, list(seconds)))
        state = State.COMPLETE if ids[-1] == END else State.STOPPED
        place = self.conversation.line.index(answer)
        self.conversation.add_answer(place, f"begun with {ids}", ids, seconds, state)

    def _play(self, stop: threading.Event) -> Iterator[Event]:
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, threading.Event):
                while not (stop.is_set() or step.wait(0.01)):
                    pass
            elif stop.is_set():
                yield Finished(StopReason.STOPPED)
                break
            else:
                self.context_used += 1
                yield step


def _as_they_are(ids: list[int], text: str) -> list[int]:
    return ids


def planner(opening: OpenSession, plan: FakePlan | None = None) -> PlanModel:
    """What the app calls to plan the model of the start."""
    return lambda on_progress, stop: FakeChoice(plan or FakePlan(), 0, opening)


def opener(session: FakeSession) -> OpenSession:
    """What the app calls to load the model."""

    def open_session(on_progress: LoadProgress, stop: threading.Event) -> Session:
        on_progress(1, 1, "output.weight")
        return session

    return open_session
