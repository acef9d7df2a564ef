"""The system's functions for threads that wait, as addresses that compiled code can call."""

import ctypes
import sys


def yield_address() -> int:
    """Return the address of ``void f(void)``: let another thread run on this core."""
    if sys.platform == "win32":
        return _address(ctypes.WinDLL("kernel32").SwitchToThread)
    return _address(ctypes.CDLL(None).sched_yield)


def sleep_address() -> int:
    """Return the address of ``void f(uint32)``: sleep for so many microseconds.

    On Windows, which has no such function, it sleeps for so many milliseconds: call it only where a
    long sleep does no harm.
    """
    if sys.platform == "win32":
        return _address(ctypes.WinDLL("kernel32").Sleep)
    return _address(ctypes.CDLL(None).usleep)


def _address(function: object) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address is not None
    return address
