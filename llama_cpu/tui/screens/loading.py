"""Loads another model in place of the present one, and shows the progress."""

import asyncio
import threading
import time
from concurrent.futures import Executor

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from llama_cpu.chat.session_protocol import OpenSession, Session
from llama_cpu.errors import Cancelled
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.number_format import bar
from llama_cpu.tui.widgets.loading_bar import progress_figures

BAR_WIDTH = 56


class LoadingScreen(Screen[None]):
    """Opens a session in the model's thread and posts the outcome as a message."""

    BINDINGS = bindings(Scope.LOADING)

    class Loaded(Message):
        """The model is ready."""

        def __init__(self, session: Session) -> None:
            super().__init__()
            self.session = session

    class Failed(Message):
        """The model could not be loaded; the error says why."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    class Cancelled(Message):
        """The user cancelled loading."""

    def __init__(self, title: str, open_session: OpenSession, model_thread: Executor) -> None:
        super().__init__()
        self._title = title
        self._open_session = open_session
        self._model_thread = model_thread
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._progress = (0, 0, "")  # written by the model's thread, read by the screen

    def compose(self) -> ComposeResult:
        with Vertical(id="loading"):
            yield Static(printable(self._title), markup=False, classes="title")
            yield Static(progress_text(0, 0, "", 0), markup=False, id="progress")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Start to load."""
        self.set_interval(0.1, self._show_progress)
        self._load()

    def action_cancel(self) -> None:
        """Stop loading; the app decides what comes next."""
        if not self._stop.is_set():
            self._stop.set()
            self.post_message(self.Cancelled())

    def on_unmount(self) -> None:
        """Stop loading if the app ends."""
        self._stop.set()

    @work
    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            session = await loop.run_in_executor(
                self._model_thread, self._open_session, self._on_progress, self._stop
            )
        except Cancelled:  # the app is about to close
            return
        except Exception as error:
            self.post_message(self.Failed(error))
            return
        if not self._stop.is_set():
            self.post_message(self.Loaded(session))

    def _on_progress(self, done: int, total: int, tensor: str) -> None:
        self._progress = (done, total, tensor)

    def _show_progress(self) -> None:
        text = progress_text(*self._progress, time.monotonic() - self._started)
        self.query_one("#progress", Static).update(text, layout=False)


def progress_text(done: int, total: int, tensor: str, seconds: float) -> str:
    """Format a bar, the bytes done, the time left, and the name of the present tensor.

    ``tensor`` may also say what is waited for when all bytes are done.
    """
    if not total:
        return f"{bar(0, BAR_WIDTH)}\nopening the files\n"
    figures = progress_figures(done, total, seconds)
    return f"{bar(done / total, BAR_WIDTH)}\n{figures}\n{printable(tensor)}"
