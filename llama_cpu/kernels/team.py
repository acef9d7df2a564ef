"""A team of threads that run forward passes together.

The threads are Python's; Numba's and OpenMP's have no part in it. While tokens follow each other, a
thread stays in compiled code (``forward.work``): it looks for the next pass, at first without
sleeping, then between short naps. After about a tenth of a second without a pass, it returns and
waits in Python. The thread that leads a pass begins at once and does not need the others.
"""

import atexit
import threading
import time
from functools import cache
from typing import Protocol

from torch import Tensor

from llama_cpu.kernels import compiler, layout
from llama_cpu.kernels.memory import Table, aligned

_LONGEST_END = 1.0  # seconds that the end of the program waits for a thread


class Model(Protocol):
    """What a pass computes: the table of a model, and all memory that it refers to."""

    @property
    def table(self) -> Table: ...

    @property
    def stages(self) -> int:
        """The greatest number of stages of a pass (``forward.stage_count``)."""


class Team:
    """The calling thread and ``threads`` - 1 others, which are started at the first pass."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lead = compiler.kernel("forward.lead", 7)
        self._work = compiler.kernel("forward.work", 3)
        self._table = Table(layout.TEAM_FIELDS)
        self._table[layout.FORWARD] = compiler.kernel("forward.forward", 2).address
        self._passes = [Table(layout.PASS_FIELDS) for _ in range(layout.SLOTS)]
        self._counters: list[Tensor] = []
        self._stages = 0
        self._lock = threading.Lock()  # one pass at a time
        self._in_use: dict[int, object] = {}  # by slot
        self._parked: dict[int, threading.Semaphore] = {}
        self._threads: list[threading.Thread] = []

    def run(
        self,
        model: Model,
        position: int,
        x: Tensor,
        logits: Tensor | None = None,
    ) -> None:
        """Run a pass over tokens that follow ``position`` others.

        x: contiguous float32 [rows, dim], the embeddings, which the output of the last layer
        replaces. ``logits``: contiguous float32 [n, vocab], written for the last n tokens.
        """
        with self._lock:
            self._let_go()
            if model.stages > self._stages:
                self._make_room(model.stages)
            if self.threads > 1 and not self._parked:
                self._start()
            for semaphore in self._parked.values():
                semaphore.release()
            slot = (self._table[layout.PASS_NUMBER] + 1) % layout.SLOTS
            before = self._in_use.get(slot)  # _lead waits for threads that still look at it
            self._in_use[slot] = (model, x, logits)
            self._lead(
                self._table.address,
                model.table.address,
                x.shape[0],
                position,
                0 if logits is None else logits.shape[0],
                x.data_ptr(),
                0 if logits is None else logits.data_ptr(),
            )
            del before
            self._let_go()

    def _let_go(self) -> None:
        """Drop what was kept for threads that were late, for passes that all have left.

        A thread may still look at the tables and inputs of a pass for a moment after its end.
        """
        for slot in list(self._in_use):
            if self._slot(slot, layout.WORKERS) == 0:
                del self._in_use[slot]

    def _slot(self, slot: int, field: int) -> int:
        return self._table[layout.SLOT + slot * layout.SLOT_FIELDS + field]

    def _make_room(self, stages: int) -> None:
        # A thread that is late in a pass would take the new counters for that pass's, and do its
        # work again. None can enter a pass now.
        while any(self._slot(slot, layout.WORKERS) for slot in range(layout.SLOTS)):
            time.sleep(0)
        self._stages = stages
        self._counters = [
            aligned(layout.COUNTER_BYTES * stages).zero_() for _ in range(layout.SLOTS)
        ]
        for slot, (table, counters) in enumerate(zip(self._passes, self._counters, strict=True)):
            table[layout.COUNTERS] = counters.data_ptr()
            field = layout.SLOT + slot * layout.SLOT_FIELDS + layout.THIS_PASS
            self._table[field] = table.address

    def _start(self) -> None:
        for number in range(1, self.threads):
            self._parked[number] = threading.Semaphore(0)
            thread = threading.Thread(
                target=self._serve, args=(number,), name=f"kernels {number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        atexit.register(self._stop)

    def _stop(self) -> None:
        """End the threads, before the memory that they look at is freed at the program's end."""
        self._table[layout.STOP] = 1
        for semaphore in self._parked.values():
            semaphore.release()
        for thread in self._threads:
            thread.join(_LONGEST_END)

    def _serve(self, number: int) -> None:
        newest = Table(1)
        wanted = self._parked[number]
        while not self._table[layout.STOP]:
            wanted.acquire()
            while wanted.acquire(blocking=False):  # releases of passes that it took part in
                pass
            self._work(self._table.address, number, newest.address)
            if self._lock.acquire(blocking=False):  # otherwise the pass that began does it
                self._let_go()
                self._lock.release()


@cache
def team(threads: int) -> Team:
    """Return the program's team of this many threads."""
    return Team(threads)
