"""What the operating system says of this machine and this process: memory, cores, cgroup.

Every call that differs between platforms is in this file, each with a fallback, so that the
rest of the program never asks which system it runs on.
"""

import contextlib
import gc
import mmap
import os
import platform
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path

import psutil

_PROCESS = psutil.Process()
_SEEKING = threading.Lock()  # where a read cannot name its place in the file


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


@lru_cache(1)
def processor_name() -> str:
    """What the processor's maker calls it, one line; where the system does not say, its kind."""
    for ask in (_name_in_proc, _name_in_sysctl, _name_in_registry, platform.processor):
        with contextlib.suppress(OSError, ValueError, ImportError, subprocess.SubprocessError):
            if name := " ".join(ask().split()):
                return name
    return platform.machine() or "unknown"


def _name_in_proc() -> str:
    """Linux. Arm's cores have numbers there and no names, but some boards say what they are."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value)
    names = ("model name", "cpu model", "Hardware", "Model", "cpu")
    return next((fields[name] for name in names if name in fields), "")


def _name_in_sysctl() -> str:
    if sys.platform != "darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout


def _name_in_registry() -> str:
    import winreg  # ImportError anywhere but on Windows

    place = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as key:  # type: ignore[attr-defined]
        return str(winreg.QueryValueEx(key, "ProcessorNameString")[0])  # type: ignore[attr-defined]


def physical_cores() -> int:
    """Physical cores that this process may use; a second thread on a core gets in the way."""
    try:
        allowed = len(os.sched_getaffinity(0))  # type: ignore[attr-defined]
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed, _cgroup_cores() or allowed)
    return max(1, cores)


def _cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole cores that a container may use (cgroup version 2, cpu.max: quota and period)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or the word "max"
        return None


def prepare_for_torch() -> None:
    """Settings that torch and its threads read when they are imported; the user's own stay.

    Threads that wait sleep, where OpenMP would have them spin until the others are ready: when
    another program wants a core (or our own screen does), a thread that spins keeps the one it
    waits for from running, and a token of the demo model took 0.9 s instead of 0.1. Waking up
    costs some 10 microseconds, as much as a small product, so that a short while (2000 turns of
    libgomp's loop, about 0.1 ms) they do spin.

    Memory from 2 MiB on is in huge pages, where Linux gives them to those who ask: weights are
    read up to a fifth faster (docs/performance.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # A thread's own arena cannot hold large blocks, so that keep_freed_memory would do nothing.
    _c_library("mallopt", _M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Have what one pass of the model frees serve the next one.

    glibc gives large blocks back to the system at once, which has to fill them with zeros before
    they come again: an eighth of the time in which a prompt is read.
    """
    # Older versions take no more than 32 MiB; left alone after the next call, it would be less.
    if not _c_library("mallopt", _M_MMAP_THRESHOLD, 1 << 30):
        _c_library("mallopt", _M_MMAP_THRESHOLD, 32 << 20)
    _c_library("mallopt", _M_TRIM_THRESHOLD, 256 << 20)


def give_back_memory() -> None:
    """Let the system have what was freed. glibc keeps blocks of less than 32 MiB, which are all of
    a small model: of the demo model's 513 MiB some 400 stayed after it was gone."""
    gc.collect()
    _c_library("malloc_trim", 0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc


def _c_library(function: str, *numbers: int) -> int:
    """Call what only glibc has, which gives 1 where it did something; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        import ctypes

        return getattr(ctypes.CDLL(None), function)(*numbers)
    return 0


def limit_memory(size: int) -> None:
    """Let this process have at most so many bytes, where the system can do that."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows; macOS refuses
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def limit_time(seconds: int) -> None:
    """Have the system end this process after so many seconds; 0: never. Not on Windows."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def lazy_memory(size: int) -> mmap.mmap:
    """``size`` bytes of zeros that take up memory only where they are written."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Huge pages would make the first byte of each 2 MiB cost all of them.
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def read_at(file: FileIO, start: int, target: memoryview) -> int:
    """Fill ``target`` with the file's bytes from ``start`` on; less only at the end of the file.

    Several threads may read one file at once.
    """
    done = 0
    while done < len(target):
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [target[done:]], start + done)
        else:  # macOS before 11, Windows
            with _SEEKING:
                file.seek(start + done)
                count = file.readinto(target[done:]) or 0
        if count == 0:
            break
        done += count
    return done


def write_at(file: FileIO, start: int, data: memoryview) -> None:
    """Write all of ``data`` at ``start``; several threads may write to one file at once."""
    done = 0
    while done < len(data):
        if hasattr(os, "pwrite"):
            done += os.pwrite(file.fileno(), data[done:], start + done)
        else:  # Windows
            with _SEEKING:
                file.seek(start + done)
                done += file.write(data[done:]) or 0


def read_ahead(file: FileIO, start: int, length: int) -> None:
    """Have these bytes of a file read into memory, if the system can; may wait for the disk."""
    if hasattr(os, "posix_fadvise"):  # Linux
        with contextlib.suppress(OSError, ValueError):  # closed, as the program ends
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)


def forget_cached(file: FileIO) -> None:
    """Have the next reading of this file, which was synced, come from the disk itself."""
    if hasattr(os, "posix_fadvise"):  # Linux
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def lock_file(file: FileIO) -> bool:
    """Mark an open file as in use until it is closed or this process ends, however it ends.

    False where another open file holds the mark. Windows needs none: it lets nobody delete a
    file that is open.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def require_replaceable(path: Path) -> None:
    """Raise OSError where another file could not take the place of this one, if it is there.

    Windows replaces no file that is write-protected (which opening it shows) or that any program
    has open or mapped: renaming needs the same right, and to its own name changes nothing.
    """
    if path.exists():
        with path.open("r+b"):
            pass
        path.rename(path)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, after a renaming, on the disk before this returns."""
    if os.name == "nt":  # Windows opens no folders; NTFS keeps a journal of names
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
