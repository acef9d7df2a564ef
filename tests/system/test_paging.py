"""Paging: what is measured, and when it says that the memory no longer suffices."""

import mmap
import sys
import types
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from llama_cpu.system import paging
from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.paging import WINDOW, Paging, PagingReport, PagingWatch

MIB = 1 << 20
TOTAL = 8000 * MIB


def memory(available: int, file_backed: int = 0) -> MemoryReport:
    return MemoryReport(0, 0, 0, file_backed * MIB, available * MIB, TOTAL)


FULL, FREE = memory(300), memory(4000)


def seen(
    reports: Iterable[tuple[int, int, int]], machine: MemoryReport = FULL, mapped: int = 0
) -> list[Paging | None]:
    """What is told of each report: MiB swapped in, swapped out and read in that second."""
    watch = PagingWatch(mapped * MIB)
    totals = [7_000 * MIB, 9_000 * MIB, 5_000 * MIB]  # since the machine was started
    told = [watch.observe(PagingReport(*totals), machine)]
    for amounts in reports:
        totals = [total + amount * MIB for total, amount in zip(totals, amounts, strict=True)]
        told.append(watch.observe(PagingReport(*totals), machine))
    return told


@pytest.mark.parametrize("second", [(30, 0, 0), (0, 30, 0), (15, 15, 0)])
def test_swapping_that_goes_on(second: tuple[int, int, int]) -> None:
    assert seen([second] * 3) == [None, None, None, Paging.SWAPPING]


def test_it_ends_when_it_ends() -> None:
    told = seen([(30, 30, 0)] * 3 + [(0, 0, 0)] * WINDOW)
    assert told[3] is Paging.SWAPPING and told[-1] is None


@pytest.mark.parametrize(
    ("reports", "machine"),
    [
        ([(0, 0, 0)] * 9, FULL),
        ([(30, 30, 0)] * 9, FREE),  # another program comes back
        ([(0, 900, 0), *[(0, 0, 0)] * 8], FULL),  # once, when room was made
        ([(2, 2, 0)] * 9, FULL),  # a trickle
        ([(0, 0, 90)] * 9, FULL),  # no weights are mapped
    ],
)
def test_what_is_no_sign(reports: list[tuple[int, int, int]], machine: MemoryReport) -> None:
    assert not any(seen(reports, machine))


def test_mapped_weights_that_are_read_again_without_any_swap() -> None:
    """They fill the memory, which counts as available."""
    machine = memory(available=7400, file_backed=7200)
    told = seen([(0, 0, 500)] * 30, machine, mapped=9000)
    first = told.index(Paging.READING_AGAIN)
    assert first == (9000 + 64) // 500 + 1
    assert set(told[first:]) == {Paging.READING_AGAIN}


def test_mapped_weights_are_read_once() -> None:
    machine = memory(available=7400, file_backed=7200)
    told = seen([(0, 0, 500)] * 18 + [(0, 0, 0)] * 9, machine, mapped=9000)
    assert not any(told)


def test_other_reading_beside_mapped_weights_that_fit() -> None:
    assert not any(seen([(0, 0, 500)] * 30, memory(7400, file_backed=3000), mapped=3000))


# What is measured


def test_what_was_swapped_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/vmstat": "nr_free_pages 7\npswpin 3\npswpout 5\n",
        "/proc/self/io": "rchar: 99\nread_bytes: 4096\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self: files[str(self)])
    page = mmap.PAGESIZE
    assert paging.paging_report() == paging.PagingReport(3 * page, 5 * page, 4096)


def test_paging_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, and on Windows, which only says how much is in the paging file."""

    def missing(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(sys, "platform", "darwin")
    swap = types.SimpleNamespace(sin=30, sout=50, used=70)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    report = paging.paging_report()
    assert (report.swapped_in, report.swapped_out) == (30, 50) and report.read >= 0
    monkeypatch.setattr(sys, "platform", "win32")
    swap.sin = swap.sout = 0
    assert paging.paging_report().swapped_out == 70


def test_the_counters_of_this_machine_only_grow() -> None:
    before, after = paging.paging_report(), paging.paging_report()
    assert 0 <= before.read <= after.read and 0 <= before.swapped_in <= after.swapped_in
