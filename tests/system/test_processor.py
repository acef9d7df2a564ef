"""The processor's name on each system, and the cores that this process may use."""

import platform
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from llama_cpu.system import processor


def test_this_machine_has_cores_and_a_name() -> None:
    assert processor.physical_cores() >= 1
    assert processor.processor_name() == processor.processor_name() != ""


def test_cores_of_a_container(tmp_path: Path) -> None:
    assert processor._cgroup_cores(tmp_path) is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert processor._cgroup_cores(tmp_path) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processor._cgroup_cores(tmp_path) is None


def only(monkeypatch: pytest.MonkeyPatch, platform_name: str, cpuinfo: str | None) -> None:
    """A system of which only that much is known."""

    def read_text(self: Path, **_: object) -> str:
        if cpuinfo is None or str(self) != "/proc/cpuinfo":
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(sys, "platform", platform_name)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    processor.processor_name.cache_clear()


@pytest.fixture
def _forget_the_name() -> Iterator[None]:
    yield
    processor.processor_name.cache_clear()


@pytest.mark.usefixtures("_forget_the_name")
@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some(R)  CPU @ 2 GHz\nmodel name: other\n",
         "Some(R) CPU @ 2 GHz"),
        ("processor : 0\nBogoMIPS : 108\n\nModel : A Board Rev 1.4\n", "A Board Rev 1.4"),
        ("processor : 0\nCPU part : 0xd0b\n", "riscv64"), ("", "riscv64"), (None, "riscv64"),
    ],
)  # fmt: skip
def test_processor_on_linux(
    cpuinfo: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "linux", cpuinfo)
    assert processor.processor_name() == name


@pytest.mark.usefixtures("_forget_the_name")
def test_processor_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "darwin", None)
    told = subprocess.CompletedProcess([], 0, "Apple M9\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)
    assert processor.processor_name() == "Apple M9"

    def refuse(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("sysctl", 5)

    processor.processor_name.cache_clear()
    monkeypatch.setattr(subprocess, "run", refuse)
    assert processor.processor_name() == "riscv64"


@pytest.mark.usefixtures("_forget_the_name")
def test_processor_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "win32", None)
    registry = types.SimpleNamespace(
        HKEY_LOCAL_MACHINE=0,
        OpenKey=lambda _, place: nullcontext(place),
        QueryValueEx=lambda key, name: (f"Ryzen {key[-1]} {name}", 1),
    )
    monkeypatch.setitem(sys.modules, "winreg", registry)
    assert processor.processor_name() == "Ryzen 0 ProcessorNameString"
