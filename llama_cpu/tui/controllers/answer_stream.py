"""One answer, made in the model's thread and collected by the view a few times a second.

The model's thread only appends to a deque; it never waits for the view.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from threading import Event as Flag
from typing import Generic, TypeVar

E = TypeVar("E")

SHORTEST_PAUSE = 0.1  # seconds; ten updates a second look like steady writing
LONGEST_PAUSE = 0.7
UI_SHARE = 0.03  # of one core; the view takes this time from the model


class Pace:
    """Chooses the pause between two updates by the cost of the last one.

    A long answer in a long conversation costs more to lay out. The view is then updated less often
    instead of slowing the model down.
    """

    def __init__(self) -> None:
        self._cpu_seconds = time.thread_time()

    def pause(self) -> float:
        """Seconds to wait before the next update. Call it once per update, in the view's thread."""
        before, self._cpu_seconds = self._cpu_seconds, time.thread_time()
        wanted = (self._cpu_seconds - before) / UI_SHARE
        return min(max(wanted, SHORTEST_PAUSE), LONGEST_PAUSE)


class AnswerStream(Generic[E]):
    """Runs a method of the session in the model's thread; ``batches`` yields its events.

    ``make``: the method. ``error``: the exception that it raised, if any.
    """

    def __init__(self, make: Callable[[Flag], Iterator[E]], model_thread: Executor) -> None:
        self._make = make
        self._stop = Flag()
        self._events: deque[E] = deque()
        self.error: Exception | None = None
        self._finished = asyncio.get_running_loop().run_in_executor(model_thread, self._run)

    def _run(self) -> None:
        try:
            for event in self._make(self._stop):
                self._events.append(event)
        except Exception as error:  # catch any kind: the conversation must not be lost
            self.error = error

    def stop(self) -> None:
        """Ask the model to stop; ``batches`` ends soon after, with the remaining events."""
        self._stop.set()

    async def batches(self) -> AsyncIterator[list[E]]:
        """Yield the events since the last batch, until the answer ends."""
        pace = Pace()
        while not self._finished.done():
            await asyncio.wait([self._finished], timeout=pace.pause())
            yield self._collect()
        yield self._collect()
        await self._finished

    def _collect(self) -> list[E]:
        # popleft, as the model's thread may append while this runs.
        return [self._events.popleft() for _ in range(len(self._events))]
