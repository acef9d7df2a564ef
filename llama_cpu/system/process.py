"""Settings of this process: OpenMP threads, the C allocator and resource limits."""

import contextlib
import gc
import os
import signal


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
