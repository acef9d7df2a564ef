"""Memory of this process, the machine and its cgroup, in bytes."""

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

    ``anonymous`` is what only this process can give back; ``file_backed`` are pages of mapped
    files (weights read in place) that the system may drop and read again. Where the system does
    not tell them apart, ``file_backed`` is 0.
    """

    resident: int
    peak: int
    anonymous: int
    file_backed: int
    available: int
    total: int


def memory_report() -> MemoryReport:
    """Measure now; costs well under a millisecond."""
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
    """(resident, peak resident, file-backed part of resident) in bytes."""
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
    """Bytes that can still be used without swapping: the machine's or the cgroup's."""
    return _machine_memory()[0]


def total_memory() -> int:
    """Bytes of memory of the machine, or the cgroup's limit if that is less."""
    return _machine_memory()[1]


def _machine_memory() -> tuple[int, int]:
    """(available, total) bytes: the machine's, or less where the cgroup has less."""
    memory = psutil.virtual_memory()
    limit, used = _cgroup_limit_and_use()
    if limit is None:
        return memory.available, memory.total
    return max(0, min(memory.available, limit - used)), min(memory.total, limit)


def _cgroup_limit_and_use(root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, int]:
    """Memory limit of this process's cgroup (None: unlimited) and what of it cannot be reclaimed.

    Version 2: memory.max and memory.current; version 1: memory.limit_in_bytes and
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
    """Every folder from this process's own cgroup up to the root: a parent's limit counts too."""
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
    """Pages of files, which the system can drop: counted for this cgroup and those within."""
    values = dict(line.split() for line in stat_file.read_text().splitlines())
    prefix = "total_" if "total_inactive_file" in values else ""
    return sum(int(values.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))


def lazy_memory(size: int) -> mmap.mmap:
    """``size`` bytes of zeros that take up memory only where they are written."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Huge pages would make the first byte of each 2 MiB cost all of them.
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
