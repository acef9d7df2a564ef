"""Does the model still fit in memory? Told from what goes to and fro between memory and disk."""

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
    """What went between memory and disk, in bytes; only differences mean something.

    ``read``: by this process from the disk itself, pages of mapped files among it. The others are
    the whole machine's.
    """

    swapped_in: int
    swapped_out: int
    read: int


def paging_report() -> PagingReport:
    """Measure now; costs well under a millisecond."""
    swapped_in, swapped_out = _swapped()
    return PagingReport(swapped_in, swapped_out, _read_from_disk())


def _swapped() -> tuple[int, int]:
    try:
        # Linux: lines such as "pswpin 1234", in pages. psutil warns where they are not there.
        lines = Path("/proc/vmstat").read_text().splitlines()
        pages = dict(line.split() for line in lines)
        return int(pages["pswpin"]) * mmap.PAGESIZE, int(pages["pswpout"]) * mmap.PAGESIZE
    except (OSError, KeyError, ValueError):
        pass
    if sys.platform == "linux":  # no swap in this kernel
        return 0, 0
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError, psutil.Error):
        return 0, 0
    # Windows does not count what is moved, but how much of the paging file is in use.
    return swap.sin, swap.sout or (swap.used if sys.platform == "win32" else 0)


def _read_from_disk() -> int:
    try:
        # Linux: lines such as "read_bytes: 1234", what was fetched from storage (proc_pid_io(5)).
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["read_bytes"])
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # A fault may bring more than its own page, so that this is the least.
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt * mmap.PAGESIZE


WINDOW = 5  # intervals between reports, which are about a second each
_MUCH = 64 << 20  # bytes in a window
_SOME = 1 << 20  # bytes in an interval
_OFTEN = 3  # intervals of a window
_SCARCE = 10  # a tenth of the memory


class Paging(Enum):
    """How it shows that the memory does not suffice."""

    SWAPPING = "swapping"
    READING_AGAIN = "reading again"  # mapped weights, thrown out as others came in


class PagingWatch:
    """Takes in a report a second.

    Some traffic is no sign: the system swaps out what nobody has used for long, other programs'
    pages come back when they are wanted, and mapped weights come from the disk once. So it must go
    on for some seconds, while there is little memory left beside the weights. There need not be
    any swap: then it is mapped weights that are dropped, and the process reads more from the disk
    than all of them.
    """

    def __init__(self, mapped_bytes: int) -> None:
        """``mapped_bytes``: of the weights, what is read in place from files."""
        self._mapped = mapped_bytes
        self._reports: deque[PagingReport] = deque(maxlen=WINDOW + 1)
        self._first_read: int | None = None

    def observe(self, paging: PagingReport, memory: MemoryReport) -> Paging | None:
        """What goes on in these seconds; None: nothing of the kind."""
        self._reports.append(paging)
        if self._first_read is None:
            self._first_read = paging.read
        # Mapped pages count as available, as they can be dropped, and here are wanted themselves.
        spare = memory.available - memory.file_backed
        if spare > memory.total // _SCARCE:
            return None
        if self._goes_on([each.swapped_in + each.swapped_out for each in self._reports]):
            return Paging.SWAPPING
        has_read_all = paging.read - self._first_read > self._mapped + _MUCH
        if self._mapped and has_read_all and self._goes_on([each.read for each in self._reports]):
            return Paging.READING_AGAIN
        return None

    def _goes_on(self, counts: list[int]) -> bool:
        steps = [after - before for before, after in pairwise(counts)]
        return sum(steps) >= _MUCH and sum(step >= _SOME for step in steps) >= _OFTEN
