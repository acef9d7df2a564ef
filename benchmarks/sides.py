"""Worker processes, which are measured in turn: one works while the others wait."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil

from benchmarks.workers.protocol import Options, Task, Times

ROOT = Path(__file__).resolve().parent.parent
QUIET = 0.05  # fraction of the cores that other programs may use
_PAUSE_SECONDS = 0.3  # the threads of some libraries spin for a while after their work


class SideFailed(Exception):
    """A worker could not load its model or do its task. The message is one line."""


class Side:
    """One worker process with its model."""

    def __init__(self, module: str, options: Options, python: str = sys.executable) -> None:
        command = [python, "-m", f"benchmarks.workers.{module}", json.dumps(asdict(options))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        try:
            self.version: str = self._answer()["version"]
        except BaseException:
            self.close()
            raise

    def run(self, task: Task) -> Times:
        """Send a task to the worker and return its times. Raises SideFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise SideFailed(self._death()) from error
        return Times(**self._answer())

    def cpu_seconds(self) -> float:
        """Return the processor time of the worker since its start, in seconds."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SideFailed(self._death())
        answer = json.loads(line)
        if "error" in answer:
            raise SideFailed(answer["error"])
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        return f"it died of {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"


@contextmanager
def opened(side: Side) -> Iterator[Side]:
    try:
        yield side
    finally:
        side.close()


class Rounds:
    """Runs tasks in turn, and records how much of the cores other programs used meanwhile."""

    def __init__(self, rounds: int, patience: float) -> None:
        self.rounds = rounds
        self.patience = patience  # seconds during which a disturbed task is repeated
        self.disturbed: list[float] = []  # fraction of the cores that others used, for each task

    def run(self, turns: Sequence[tuple[Side, Task]]) -> list[list[Times]]:
        """Run every turn once to warm up, then once per round; every second round is reversed."""
        for side, task in turns:
            side.run(task)
        results: list[list[Times]] = [[] for _ in turns]
        for round_ in range(self.rounds):
            order = list(enumerate(turns))
            for index, (side, task) in order if round_ % 2 == 0 else reversed(order):
                results[index].append(self._quiet(side, task))
        return results

    def _quiet(self, side: Side, task: Task) -> Times:
        """Repeat a task until it is hardly disturbed, and return the least disturbed times."""
        deadline = time.monotonic() + self.patience
        tries: list[tuple[float, int, Times]] = []
        while not tries or (min(tries)[0] > QUIET and time.monotonic() < deadline):
            while _pause() > QUIET and time.monotonic() < deadline:
                pass
            busy, own = _busy_seconds(), side.cpu_seconds()
            began = time.perf_counter()
            times = side.run(task)
            share = _share(_busy_seconds() - busy - (side.cpu_seconds() - own), began)
            tries.append((share, len(tries), times))
        share, _, times = min(tries)
        self.disturbed.append(share)
        return times


def _pause() -> float:
    """Pause while all sides wait, and return the fraction of the cores that is used."""
    busy, began = _busy_seconds(), time.perf_counter()
    time.sleep(_PAUSE_SECONDS)
    return _share(_busy_seconds() - busy, began)


def _share(seconds: float, began: float) -> float:
    """Return ``seconds`` as a fraction of the time that all cores could have worked."""
    return max(0.0, seconds / (time.perf_counter() - began) / (psutil.cpu_count() or 1))


def _busy_seconds() -> float:
    """Return the busy time of all cores, other virtual machines included, in seconds."""
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, kind, 0.0) for kind in kinds)
