"""Detect that memory no longer suffices, by the traffic between memory and disk."""

import mmap
import sys
from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

import psutil

from llama_cpu.system.memory import MemoryReport


@dataclass(frozen=True)
class PagingReport:
    """Counters of the traffic between memory and disk, in bytes.

    Only differences between two reports are meaningful. ``swapped_in`` and ``swapped_out`` count
    the whole machine; ``read`` counts what this process read from the disk, pages of mapped files
    included.
    """

    swapped_in: int
    swapped_out: int
    read: int


def paging_report() -> PagingReport:
    """Read the counters now; takes well under a millisecond."""
    swapped_in, swapped_out = _swapped()
    return PagingReport(swapped_in, swapped_out, _read_from_disk())


def _swapped() -> tuple[int, int]:
    try:
        # Linux: lines such as "pswpin 1234", in pages. psutil warns if they are missing.
        lines = Path("/proc/vmstat").read_text().splitlines()
        pages = dict(line.split() for line in lines)
        return int(pages["pswpin"]) * mmap.PAGESIZE, int(pages["pswpout"]) * mmap.PAGESIZE
    except (OSError, KeyError, ValueError):
        pass
    if sys.platform == "linux":  # a kernel without swap
        return 0, 0
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError, psutil.Error):
        return 0, 0
    # Windows reports no traffic, only how much of the paging file is in use.
    return swap.sin, swap.sout or (swap.used if sys.platform == "win32" else 0)


def _read_from_disk() -> int:
    try:
        # Linux: lines such as "read_bytes: 1234", bytes fetched from storage (proc_pid_io(5)).
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["read_bytes"])
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # A lower bound: one major fault may read more than one page.
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt * mmap.PAGESIZE


WINDOW = 5  # intervals between reports, about one second each
_WINDOW_BYTES = 64 << 20  # minimum traffic in a window
_INTERVAL_BYTES = 1 << 20  # minimum traffic of an interval that counts as busy
_BUSY_INTERVALS = 3  # minimum number of busy intervals in a window
_SCARCE_PART = 10  # memory is scarce if less than a tenth of it is left


class Paging(Enum):
    """The sign that memory does not suffice."""

    SWAPPING = "swapping"
    READING_AGAIN = "reading again"  # mapped weights are dropped and read from disk repeatedly


class PagingWatch:
    """Evaluates one paging report per second.

    Some traffic is normal: the system swaps out memory that was idle for long, pages of other
    programs return when they are needed, and mapped weights are read once. Memory is considered
    insufficient only if the traffic continues for several seconds while little memory is left
    beside the weights. On a machine without swap, mapped weights are dropped instead, and the
    process reads more from the disk than the size of all of them.
    """

    def __init__(self, mapped_bytes: int) -> None:
        """``mapped_bytes``: size of the memory-mapped weights."""
        self._mapped = mapped_bytes
        self._reports: deque[PagingReport] = deque(maxlen=WINDOW + 1)
        self._first_read: int | None = None

    def observe(self, paging: PagingReport, memory: MemoryReport) -> Paging | None:
        """Add a report and return what the last seconds show; None if memory suffices."""
        self._reports.append(paging)
        if self._first_read is None:
            self._first_read = paging.read
        # The system counts mapped pages as available, but the model needs them.
        spare = memory.available - memory.file_backed
        if spare > memory.total // _SCARCE_PART:
            return None
        if self._continues([each.swapped_in + each.swapped_out for each in self._reports]):
            return Paging.SWAPPING
        has_read_all = paging.read - self._first_read > self._mapped + _WINDOW_BYTES
        if self._mapped and has_read_all and self._continues([each.read for each in self._reports]):
            return Paging.READING_AGAIN
        return None

    def _continues(self, counts: list[int]) -> bool:
        steps = [after - before for before, after in pairwise(counts)]
        busy = sum(step >= _INTERVAL_BYTES for step in steps)
        return sum(steps) >= _WINDOW_BYTES and busy >= _BUSY_INTERVALS
