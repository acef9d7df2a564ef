"""The line above the prompt that shows how far the model of the start is loaded."""

import asyncio
import time
from concurrent.futures import Executor
from threading import Event as Flag

from textual import work
from textual.message import Message
from textual.widgets import Static

from llama_cpu.chat.session_protocol import ModelPlan, PlanModel, Session
from llama_cpu.errors import Cancelled
from llama_cpu.system.text import human_bytes, printable
from llama_cpu.tui.number_format import bar, duration

BAR_WIDTH = 12
SHOWN_SECONDS = 0.2  # each update costs a layout, and loading needs the processor


class LoadingBar(Static):
    """Loads a model in the model's thread, begun once the first frame is on the screen."""

    class Loaded(Message):
        """The model is ready."""

        def __init__(self, plan: ModelPlan, session: Session) -> None:
            super().__init__()
            self.plan = plan
            self.session = session

    class Failed(Message):
        """The model could not be loaded; the error says why."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    class Cancelled(Message):
        """The user stopped loading."""

    def __init__(self, plan_model: PlanModel, model_thread: Executor) -> None:
        super().__init__(progress_line("", 0, 0, "", 0), markup=False)
        self._plan_model = plan_model
        self._model_thread = model_thread
        self._stop = Flag()
        self._model = ""  # known once the files were opened
        self._started = time.monotonic()
        self._progress = (0, 0, "")  # written by the model's thread, read by the screen

    def on_mount(self) -> None:
        """Begin after the first frame, so that importing PyTorch does not delay it."""
        self.set_interval(SHOWN_SECONDS, self._show_progress)
        self.call_after_refresh(self._load)

    def on_unmount(self) -> None:
        """Stop loading if the app ends."""
        self._stop.set()

    def cancel(self) -> None:
        """Stop loading; the app decides what comes next."""
        if not self._stop.is_set():
            self._stop.set()
            self.post_message(self.Cancelled())

    @work
    async def _load(self) -> None:
        loop, thread = asyncio.get_running_loop(), self._model_thread
        try:
            choice = await loop.run_in_executor(
                thread, self._plan_model, self._on_progress, self._stop
            )
            plan = choice.plan
            self._model = f" {plan.name} ({plan.precision.label})"
            self._started = time.monotonic()
            session = await loop.run_in_executor(
                thread, choice.open_session, self._on_progress, self._stop
            )
        except Cancelled:
            return
        except Exception as error:
            if not self._stop.is_set():
                self.post_message(self.Failed(error))
            return
        if not self._stop.is_set():
            self.post_message(self.Loaded(plan, session))

    def _on_progress(self, done: int, total: int, what: str) -> None:
        self._progress = (done, total, what)

    def _show_progress(self) -> None:
        seconds = time.monotonic() - self._started
        self.update(progress_line(self._model, *self._progress, seconds), layout=False)


def progress_line(name: str, done: int, total: int, what: str, seconds: float) -> str:
    """Name the model, and say in one line how far it is loaded; a narrow screen cuts off the end.

    ``what``: the present tensor, or what is waited for.
    """
    drawn = bar(done / total if total else 0, BAR_WIDTH)
    if not total:
        figures = what or "opening the files"
    elif done < total:
        figures = f"{progress_figures(done, total, seconds)}  ·  {what}"
    else:
        figures = what
    return printable(f"Loading{name} {drawn} {figures}")


def progress_figures(done: int, total: int, seconds: float) -> str:
    """Say how many bytes are done, and how long the others will take."""
    figures = f"{done / total:.0%}  ·  {human_bytes(done)} of {human_bytes(total)}"
    if 0 < done < total and seconds > 1:
        figures += f"  ·  about {duration(seconds * (total - done) / done)} left"
    return figures
