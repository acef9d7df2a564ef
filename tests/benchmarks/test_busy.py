"""The figures of benchmarks/busy.py; no test asserts a time."""

from typing import Any

import psutil

from benchmarks.busy import busy_loops, figures, take_turns
from benchmarks.workers.protocol import Task, Times


def test_figures() -> None:
    assert figures([float(number) for number in range(100, 0, -1)]) == (50.5, 95.0, 100.0)
    assert figures([3.0]) == (3.0, 3.0, 3.0)


def loops() -> int:
    children = psutil.Process().children()
    return sum("while True: pass" in child.cmdline() for child in children)


class CountingSide:
    """Its tokens take as many seconds as there are busy loops."""

    def run(self, task: Task) -> Times:
        return Times(1.0, [float(loops())] * task.decode)


def test_turns_alternate_and_leave_no_loop() -> None:
    ours: Any = CountingSide()
    alone, busy = take_turns(ours, rounds=2, loops=2, tokens=3)
    assert alone == [0.0] * 6
    assert busy == [2.0] * 6
    with busy_loops(1):
        assert loops() == 1
    assert loops() == 0
