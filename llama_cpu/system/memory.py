"""Memory of this process, the machine and the cgroup, in bytes."""

import contextlib
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROCESS = psutil.Process()


@dataclass(frozen=True)
class MemoryReport:
    """Resident memory of this process and memory of the machine, in bytes.

    ``anonymous`` memory can be released by this process only. ``file_backed`` memory is pages of
    mapped files (memory-mapped weights), which the system may drop and read again; it is 0 on
    systems that do not report it. ``peak`` is the highest value of ``resident`` so far.
    """

    resident: int
    peak: int
    anonymous: int
    file_backed: int
    available: int
    total: int


def memory_report() -> MemoryReport:
    """Measure the memory now; takes well under a millisecond."""
    resident, peak, file_backed = _process_memory()
    available, total = _machine_memory()
    return MemoryReport(
        resident=resident,
        peak=max(peak, resident),
        anonymous=resident - file_backed,
        file_backed=file_backed,
        available=available,
        total=total,
    )


def _process_memory() -> tuple[int, int, int]:
    """Return resident, peak resident and file-backed resident memory, in bytes."""
    try:
        # Linux: lines such as "RssFile:     1234 kB" (proc_pid_status(5)).
        fields = {}
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name] = value
        resident, peak, file_backed = (
            int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssFile")
        )
        return resident, peak, file_backed
    except (OSError, KeyError, ValueError):
        resident = _PROCESS.memory_info().rss
        return resident, _peak_without_proc(resident), 0


def _peak_without_proc(resident: int) -> int:
    info = _PROCESS.memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    try:
        import resource
    except ImportError:
        return resident
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def available_memory() -> int:
    """Return the bytes that can still be used without swapping, by the machine and the cgroup."""
    return _machine_memory()[0]


def total_memory() -> int:
    """Return the memory of the machine, or the cgroup's limit if that is less, in bytes."""
    return _machine_memory()[1]


def _machine_memory() -> tuple[int, int]:
    """Return available and total memory in bytes; the cgroup's limit applies if it is lower."""
    memory = psutil.virtual_memory()
    limit, used = _cgroup_limit_and_use()
    if limit is None:
        return memory.available, memory.total
    return max(0, min(memory.available, limit - used)), min(memory.total, limit)


def _cgroup_limit_and_use(root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, int]:
    """Return the cgroup's memory limit (None: unlimited) and the use that cannot be reclaimed.

    Version 2 has memory.max and memory.current, version 1 memory.limit_in_bytes and
    memory.usage_in_bytes (kernel documentation, cgroup-v2.rst and cgroup-v1/memory.rst).
    """
    tightest: tuple[int | None, int] = (None, 0)
    for folder, limit_name, usage_name in _cgroup_folders(root):
        try:
            limit = int((folder / limit_name).read_text())
            usage = int((folder / usage_name).read_text())
            cached = _cached_file_bytes(folder / "memory.stat")
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        used = max(0, usage - cached)
        if tightest[0] is None or limit - used < tightest[0] - tightest[1]:
            tightest = (limit, used)
    return tightest


def _cgroup_folders(root: Path) -> list[tuple[Path, str, str]]:
    """List the folders from this process's cgroup up to the root; a parent's limit applies, too."""
    folders = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        while folder != base.parent:
            folders.append((folder, *names))
            folder = folder.parent
    return folders


def _cached_file_bytes(stat_file: Path) -> int:
    """Return the size of cached files, which can be dropped, of this cgroup and its children."""
    values = dict(line.split() for line in stat_file.read_text().splitlines())
    prefix = "total_" if "total_inactive_file" in values else ""
    return sum(int(values.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))


def lazy_memory(size: int) -> mmap.mmap:
    """Allocate ``size`` zero bytes that occupy memory only once they are written."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # With huge pages, writing one byte would occupy all 2 MiB around it.
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
