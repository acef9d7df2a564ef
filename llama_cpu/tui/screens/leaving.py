"""Saves the KV cache before the app ends."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from threading import Event as Flag

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from llama_cpu.chat.session_protocol import Progress
from llama_cpu.system.text import human_bytes
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.controllers.cache_work import PATIENCE
from llama_cpu.tui.messages import AnswerFailed
from llama_cpu.tui.number_format import bar

BAR_WIDTH = 48


class LeavingScreen(ModalScreen[None]):
    """Saves the KV cache, then closes. The screen is visible only if this takes long.

    ``stop_work`` stops the model's work and waits until it has ended; ``save_cache`` is the
    session's and is called in the model's thread.
    """

    BINDINGS = bindings(Scope.LEAVING)

    def __init__(
        self,
        stop_work: Callable[[], Awaitable[None]],
        save_cache: Callable[[Progress, Flag], None],
        model_thread: Executor,
    ) -> None:
        super().__init__()
        self._stop_work = stop_work
        self._keep_cache = save_cache
        self._model_thread = model_thread
        self._stop = Flag()
        self._progress = (0, 0)  # written by the model's thread, read by the screen

    def compose(self) -> ComposeResult:
        with Vertical(id="leaving"):
            yield Static("Saving the KV cache of this conversation", classes="title")
            yield Static(id="kept")
            yield Static("Esc quits without saving it.", classes="dim")

    def on_mount(self) -> None:
        """Start to save, which usually ends before anything is shown."""
        self.set_timer(PATIENCE, lambda: self.add_class("-slow"))
        self.set_interval(0.2, self._show_progress)
        self._keep()

    def action_leave(self) -> None:
        """Stop saving; no new file is written then."""
        self._stop.set()

    def on_unmount(self) -> None:
        """Stop saving when the app ends for any other reason."""
        self._stop.set()

    @work
    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        await self._stop_work()
        try:
            await loop.run_in_executor(
                self._model_thread, self._keep_cache, self._observe, self._stop
            )
        except Exception as error:  # the app ends in any case
            self.post_message(AnswerFailed(error))
        self.dismiss()

    def _observe(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _show_progress(self) -> None:
        done, total = self._progress
        if total:
            text = f"{bar(done / total, BAR_WIDTH)}\n{human_bytes(done)} of {human_bytes(total)}"
            self.query_one("#kept", Static).update(text)
