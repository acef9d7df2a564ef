"""Loads and saves KV caches while the app runs, and shows the progress if it takes a while."""

import asyncio
from concurrent.futures import Executor
from threading import Event as Flag

from llama_cpu.system.text import human_bytes
from llama_cpu.tui.controllers.view import ChatView
from llama_cpu.tui.messages import AnswerFailed

PATIENCE = 1.0  # seconds before the progress is shown


class CacheWork:
    """Changes the KV cache, in the model's thread, when another conversation is shown."""

    def __init__(self, view: ChatView, model_thread: Executor) -> None:
        self._view = view
        self._model_thread = model_thread
        self._stop = Flag()
        self._under_way = 0
        self._progress = (0, 0)  # written by the model's thread, read by the view
        self._hint = ""

    @property
    def is_active(self) -> bool:
        return self._under_way > 0

    def begin(self) -> None:
        """Save the previous conversation's cache, and load that of the present one."""
        if not self._view.has_model:  # it begins again once there is one
            return
        if not self.is_active:
            self._stop = Flag()
        self._view.run_worker(self._prepare(self._stop), group="cache")

    def stop(self) -> None:
        """Skip the rest: the tokens are computed again instead."""
        self._stop.set()

    async def _prepare(self, stop: Flag) -> None:
        self._under_way += 1
        self._view.refresh_bindings()
        loop, session = asyncio.get_running_loop(), self._view.session
        finished = loop.run_in_executor(
            self._model_thread, session.prepare_cache, self._observe, stop
        )
        try:
            while not finished.done():
                await asyncio.wait([finished], timeout=PATIENCE)
                if not finished.done():
                    self._show()
            await finished
        except asyncio.CancelledError:  # the screen was closed, so the cache is not needed
            stop.set()
            raise
        except Exception as error:  # the conversation does not depend on the cache
            self._view.post_message(AnswerFailed(error))
        finally:
            self._under_way -= 1
            self._end()

    def _observe(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _show(self) -> None:
        """Show the progress on the edge of the input, as the user may be writing."""
        done, total = self._progress
        if total and self._view.is_attached:
            self._hint = f"KV cache and disk: {done / total:.0%} of {human_bytes(total)}, Esc skips"
            self._view.input.say(self._hint)

    def _end(self) -> None:
        if self._view.is_attached:
            self._view.refresh_bindings()
            if self._hint:
                self._view.input.unsay(self._hint)
        self._hint = ""
