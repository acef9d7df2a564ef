"""KV caches from and to the disk while the app runs: seen only where that takes a while."""

import asyncio
from concurrent.futures import Executor
from threading import Event as Flag
from typing import TYPE_CHECKING

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from llama_cpu.system.text import human_bytes
from llama_cpu.tui.number_format import bar

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

PATIENCE = 1.0  # seconds until it is said what one waits for
BAR_WIDTH = 48


class CacheWork:
    """What the model's thread does when another conversation is shown."""

    def __init__(self, screen: "ChatScreen", model_thread: Executor) -> None:
        self._screen = screen
        self._model_thread = model_thread
        self._stop = Flag()
        self._under_way = 0
        self._progress = (0, 0)  # written by the model's thread, read by the screen
        self._hint = ""

    @property
    def is_active(self) -> bool:
        return self._under_way > 0

    def begin(self) -> None:
        """Have the cache of the conversation that is shown; that of the one before is kept."""
        if not self.is_active:
            self._stop = Flag()
        self._screen.run_worker(self._prepare(self._stop), group="cache")

    def stop(self) -> None:
        """It is not worth waiting for."""
        self._stop.set()

    async def _prepare(self, stop: Flag) -> None:
        self._under_way += 1
        self._screen.refresh_bindings()
        loop, session = asyncio.get_running_loop(), self._screen.session
        finished = loop.run_in_executor(
            self._model_thread, session.prepare_cache, self._observe, stop
        )
        try:
            while not finished.done():
                await asyncio.wait([finished], timeout=PATIENCE)
                if not finished.done():
                    self._show()
            await finished
        except asyncio.CancelledError:  # the screen is left: nobody waits for it
            stop.set()
            raise
        except Exception as error:  # nothing of the conversation depends on it
            self._screen.post_message(self._screen.AnswerFailed(error))
        finally:
            self._under_way -= 1
            self._end()

    def _observe(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _show(self) -> None:
        """On the prompt's edge, as one may be writing meanwhile."""
        done, total = self._progress
        if total and self._screen.is_attached:
            self._hint = f"KV cache and disk: {done / total:.0%} of {human_bytes(total)}, Esc skips"
            self._screen.prompt.say(self._hint)

    def _end(self) -> None:
        if self._screen.is_attached:
            self._screen.refresh_bindings()
            if self._hint and self._screen.prompt.border_subtitle == self._hint:
                self._screen.prompt.say("")
        self._hint = ""


class LeavingScreen(ModalScreen[None]):
    """Keeps the KV cache before the app ends; shows itself only where that takes a while.

    Whoever opened it is told by its dismissal.
    """

    BINDINGS = [Binding("escape", "leave", "Leave now", id="leave_now")]

    def __init__(self, chat: "ChatScreen", model_thread: Executor) -> None:
        super().__init__()
        self._chat = chat
        self._model_thread = model_thread
        self._stop = Flag()
        self._progress = (0, 0)  # written by the model's thread, read by the screen

    def compose(self) -> ComposeResult:
        with Vertical(id="leaving"):
            yield Static("Keeping what was computed of this conversation", classes="title")
            yield Static(id="kept")
            yield Static("Esc leaves without it.", classes="dim")

    def on_mount(self) -> None:
        """Begin; most often it has ended before anything is seen."""
        self.set_timer(PATIENCE, lambda: self.add_class("-slow"))
        self.set_interval(0.2, self._show_progress)
        self._keep()

    def action_leave(self) -> None:
        """Do not wait any longer; there is no new file then."""
        self._stop.set()

    def on_unmount(self) -> None:
        """The app ends at once, for whatever reason."""
        self._stop.set()

    @work
    async def _keep(self) -> None:
        chat, loop = self._chat, asyncio.get_running_loop()
        chat.cache_work.stop()
        await chat.answering.stop_and_wait()
        try:
            await loop.run_in_executor(
                self._model_thread, chat.session.save_cache, self._observe, self._stop
            )
        except Exception as error:  # the app is to end all the same
            chat.post_message(chat.AnswerFailed(error))
        self.dismiss()

    def _observe(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _show_progress(self) -> None:
        done, total = self._progress
        if total:
            text = f"{bar(done / total, BAR_WIDTH)}\n{human_bytes(done)} of {human_bytes(total)}"
            self.query_one("#kept", Static).update(text)
