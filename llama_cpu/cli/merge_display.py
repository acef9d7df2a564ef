"""Displays the progress of a merge and the memory that it uses."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llama_cpu.system.memory import memory_report

_LINE_SECONDS = 5.0  # between lines of progress where there is no terminal
_SAMPLE_SECONDS = 0.1


class MergeDisplay:
    """Progress on standard error: a bar on a terminal, else a line every few seconds."""

    def __init__(self, total: int) -> None:
        self.peak = 0  # anonymous memory, in bytes
        self._total, self._done, self._what = total, 0, ""
        self._start = self._sampled = self._printed = time.monotonic()
        self._on_terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[memory]}"),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not self._on_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> "MergeDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sample()
        self._progress.stop()

    def begin(self, what: str) -> None:
        self._what, self._done, self._start = what, 0, time.monotonic()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=self._total, memory="")

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._sampled < _SAMPLE_SECONDS:
            return
        self._sampled = now
        memory = self._sample()
        self._progress.update(self._task, completed=self._done, memory=f"{memory / 1e6:.0f} MB")
        if not self._on_terminal and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            print(self._line(now - self._start, memory), file=sys.stderr, flush=True)

    def _sample(self) -> int:
        memory = memory_report().anonymous
        self.peak = max(self.peak, memory)
        return memory

    def _line(self, seconds: float, memory: int) -> str:
        speed = self._done / max(seconds, 1e-6)
        left = (self._total - self._done) / max(speed, 1e-6)
        return (
            f"{self._what}: {self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB, "
            f"{speed / 1e6:.0f} MB/s, {left:.0f} s left, {memory / 1e6:.0f} MB of memory"
        )
