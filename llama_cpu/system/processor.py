"""The processor's name and the cores that this process may use."""

import contextlib
import os
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import psutil


@lru_cache(1)
def processor_name() -> str:
    """Return the processor's product name, or its architecture if the system does not know it."""
    for ask in (_name_in_proc, _name_in_sysctl, _name_in_registry, platform.processor):
        with contextlib.suppress(OSError, ValueError, ImportError, subprocess.SubprocessError):
            if name := " ".join(ask().split()):
                return name
    return platform.machine() or "unknown"


def _name_in_proc() -> str:
    """Read /proc/cpuinfo. On Arm it names no cores, but sometimes the board."""
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
    import winreg  # ImportError on other systems

    place = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as key:  # type: ignore[attr-defined]
        return str(winreg.QueryValueEx(key, "ProcessorNameString")[0])  # type: ignore[attr-defined]


def physical_cores() -> int:
    """Return the number of physical cores that this process may use.

    Two threads on one core would only slow each other down.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed, _cgroup_cores() or allowed)
    return max(1, cores)


def _cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the whole cores that a container may use (cgroup version 2, cpu.max)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or the word "max"
        return None
