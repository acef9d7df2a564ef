"""One answer, made in the model's thread and collected by the screen a few times a second.

The model's thread only appends to a deque: it never waits for the screen.
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
UI_SHARE = 0.03  # of one core: what the screen takes, the model lacks


class Pace:
    """Chooses the pause between two updates from what the last one cost.

    A long answer in a long conversation costs more to lay out. Instead of slowing the model
    down, the screen is then updated less often.
    """

    def __init__(self) -> None:
        self._cpu_seconds = time.thread_time()

    def pause(self) -> float:
        """Seconds to wait now; call it once per update, in the thread that updates the screen."""
        before, self._cpu_seconds = self._cpu_seconds, time.thread_time()
        wanted = (self._cpu_seconds - before) / UI_SHARE
        return min(max(wanted, SHORTEST_PAUSE), LONGEST_PAUSE)


class AnswerStream(Generic[E]):
    """Has one answer made, or looked at; ``batches`` yields its events.

    ``make``: the session's method that makes them. ``error`` is what it raised, if it did.
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
        except Exception as error:  # whatever it is, the conversation must not be lost with it
            self.error = error

    def stop(self) -> None:
        """Ask the model to stop; ``batches`` ends soon after, with what was written until then."""
        self._stop.set()

    async def batches(self) -> AsyncIterator[list[E]]:
        """What happened since the last batch, until the answer ends."""
        pace = Pace()
        while not self._finished.done():
            await asyncio.wait([self._finished], timeout=pace.pause())
            yield self._collect()
        yield self._collect()
        await self._finished

    def _collect(self) -> list[E]:
        # popleft, as the model's thread may append while this runs.
        return [self._events.popleft() for _ in range(len(self._events))]
