"""A session that plays scripted events instead of running a model."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from llama_cpu.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.machine import MemoryReport
from llama_cpu.precision import Precision

PATIENCE = 10  # seconds until a test that waits for something gives up


@dataclass
class FakePlan:
    name: str = "Test model"
    precision: Precision = Precision.FLOAT32
    is_demo: bool = False


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
    messages: list[FakeMessage] = field(default_factory=list)
    context_used: int = 0
    is_closed: bool = False
    template_name: str = "chatml"
    template_guessed: bool = False

    model_name = "Test model"
    precision = "float32"
    weights_bytes = 100 << 20
    kv_cache_bytes = 50 << 20
    kv_cache_used_bytes = 5 << 20
    kv_cache_touched_bytes = 20 << 20
    context_size = 4096
    threads = 2

    def weights_resident_bytes(self, report: MemoryReport) -> int:
        return min(self.weights_bytes, report.resident // 4)

    def add_user(self, text: str) -> None:
        if self.messages and self.messages[-1].role == "user":
            text = self.messages.pop().text + "\n\n" + text
        self.messages.append(FakeMessage("user", text))

    def drop_last_answer(self) -> bool:
        if self.messages and self.messages[-1].role == "assistant":
            self.messages.pop()
            return True
        return False

    def drop_last_user(self) -> str:
        return self.messages.pop().text

    def clear(self) -> None:
        self.messages = [message for message in self.messages if message.role == "system"]

    def close(self) -> None:
        self.is_closed = True

    def answer(self, stop: threading.Event) -> Iterator[Event]:
        text = ""
        try:
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
                    if isinstance(step, Token | Finished):
                        text += step.text
                    self.context_used += 1
                    yield step
        finally:  # as the session does
            if text:
                self.messages.append(FakeMessage("assistant", text))


def opener(session: FakeSession) -> Callable[..., FakeSession]:
    """What the app calls to load the model."""

    def open_session(on_progress: Callable[..., None], stop: threading.Event) -> FakeSession:
        on_progress(1, 1, "output.weight")
        return session

    return open_session
