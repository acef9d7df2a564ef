"""Worker processes, and measuring them in turn: one works, the others wait."""

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
QUIET = 0.05  # share of the cores that other programs may take
_PAUSE_SECONDS = 0.3  # as some libraries' threads look for work for a while


class SideFailed(Exception):
    """A worker could not load or do its task; one line says why."""


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
        """Raises SideFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise SideFailed(self._death()) from error
        return Times(**self._answer())

    def cpu_seconds(self) -> float:
        """What its threads have computed since it began."""
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
    """Runs tasks in turn, and keeps what other programs took of the cores meanwhile."""

    def __init__(self, rounds: int, patience: float) -> None:
        self.rounds = rounds
        self.patience = patience  # seconds to try a task again for, until the machine is quiet
        self.disturbed: list[float] = []  # share of the cores that others took in each task

    def run(self, turns: Sequence[tuple[Side, Task]]) -> list[list[Times]]:
        """Every turn once to warm up, then in every round, backwards in each other one."""
        for side, task in turns:
            side.run(task)
        results: list[list[Times]] = [[] for _ in turns]
        for round_ in range(self.rounds):
            order = list(enumerate(turns))
            for index, (side, task) in order if round_ % 2 == 0 else reversed(order):
                results[index].append(self._quiet(side, task))
        return results

    def _quiet(self, side: Side, task: Task) -> Times:
        """The try in which other programs took the least; the first that they hardly disturbed."""
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
    """Share of the cores that is used while all sides wait."""
    busy, began = _busy_seconds(), time.perf_counter()
    time.sleep(_PAUSE_SECONDS)
    return _share(_busy_seconds() - busy, began)


def _share(seconds: float, began: float) -> float:
    """Of what all cores could have computed since then."""
    return max(0.0, seconds / (time.perf_counter() - began) / (psutil.cpu_count() or 1))


def _busy_seconds() -> float:
    """What all cores together have computed, for any program or another virtual machine."""
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, kind, 0.0) for kind in kinds)
