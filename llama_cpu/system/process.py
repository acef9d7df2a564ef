"""Settings of this process: OpenMP threads, the C allocator and resource limits."""

import contextlib
import gc
import os
import signal


def prepare_for_torch() -> None:
    """Set the environment variables that torch reads when it is imported.

    Variables that the user has set are kept. Call this before the first import of torch.

    ``OMP_WAIT_POLICY``: OpenMP threads sleep while they wait instead of spinning. If another
    program (or the app's own screen) needs a core, a spinning thread keeps the thread it waits
    for from running: a token of the demo model took 0.9 s instead of 0.1 s. Because waking up
    takes about 10 microseconds, as long as a small matrix product, ``GOMP_SPINCOUNT`` lets a
    thread spin for about 0.1 ms first.

    ``THP_MEM_ALLOC_ENABLE``: allocations of 2 MiB and more use huge pages if Linux offers them,
    which makes reading weights up to a fifth faster (docs/performance.md).

    ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` and ``LRU_CACHE_CAPACITY``: oneDNN compiles a product for
    every shape of the weight and number of rows, 0.3 to 1.2 MB each. It keeps the last 1,024 of
    them, and so does PyTorch's layer above it (ideep), so a conversation of short turns grew by
    hundreds of MB. ``_KEPT_PRODUCTS`` are enough for a pass over any model, because its layers have
    the same few shapes, and for the numbers of rows that speculative decoding alternates between
    (docs/performance.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # oneDNN's other name for it
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KEPT_PRODUCTS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(_KEPT_PRODUCTS))
    # The arenas of other threads cannot keep large blocks, so keep_freed_memory needs this.
    _c_library("mallopt", _M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Make the C allocator reuse large freed blocks instead of returning them to the system.

    glibc returns large blocks at once, and the system must zero them when they are allocated
    again, which took an eighth of the time of a prefill.
    """
    # Older versions of glibc allow at most 32 MiB. The threshold must be set in any case: the
    # next call would otherwise freeze it at its lower default.
    if not _c_library("mallopt", _M_MMAP_THRESHOLD, 1 << 30):
        _c_library("mallopt", _M_MMAP_THRESHOLD, 32 << 20)
    _c_library("mallopt", _M_TRIM_THRESHOLD, 256 << 20)


def give_back_memory() -> None:
    """Return freed memory to the system.

    glibc keeps blocks of less than 32 MiB, and a small model consists of nothing else: of the
    demo model's 513 MiB about 400 stayed allocated after the model was deleted.
    """
    gc.collect()
    _c_library("malloc_trim", 0)


# Five shapes of weights (wq with wk and wv, wo, w1 with w3, w2, output) with up to 8 rows, and 24
# for a prompt.
_KEPT_PRODUCTS = 64
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


def _c_library(function: str, *numbers: int) -> int:
    """Call a function that only glibc has: 1 if it took effect, 0 if not or on another system."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        import ctypes

        return int(getattr(ctypes.CDLL(None), function)(*numbers))
    return 0


def limit_memory(size: int) -> None:
    """Limit the address space of this process to ``size`` bytes, on systems that support it."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows; macOS refuses
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def limit_time(seconds: int) -> None:
    """Have the system end this process after ``seconds`` (0: never). No effect on Windows."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
