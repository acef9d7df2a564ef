"""Imports modules that need PyTorch in one thread, without stopping the app's screen in another."""

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def import_gently(modules: Sequence[str], before_each: Callable[[], None]) -> None:
    """Import modules that need PyTorch, one after the other, from a thread of the app.

    ``before_each`` is called before each of them; what it raises ends the import.

    Python loads a library with its lock held: 0.6 to 1.2 s for PyTorch's on a busy machine, in
    which no key was shown. It is therefore loaded first by a call that releases the lock. The
    garbage collector looked at all that was imported so far again and again, up to 0.3 s at a time
    and a tenth of the whole, and found nothing. Without both, a thread that wakes every 5 ms never
    waited for 0.1 s.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        if "torch" not in sys.modules:
            before_each()
            _load_libraries()
        for module in modules:
            before_each()
            importlib.import_module(module)
    finally:
        if was_collecting:
            gc.enable()


def _load_libraries() -> None:
    """Load PyTorch's libraries as its import does; whatever fails here is left to the import."""
    spec = importlib.util.find_spec("torch")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    with contextlib.suppress(OSError, AttributeError):
        dlopen = ctypes.CDLL(None).dlopen  # unlike ctypes' own use of it, releases the lock
        dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
        dlopen(os.fsencode(folder / "libtorch_global_deps.so"), os.RTLD_NOW | os.RTLD_GLOBAL)
        dlopen(os.fsencode(folder / "libtorch_cpu.so"), os.RTLD_NOW | os.RTLD_LOCAL)
