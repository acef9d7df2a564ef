import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from llama_cpu.system import memory, paging, process, processor


def test_report_is_consistent() -> None:
    report = memory.memory_report()
    assert 0 < report.anonymous <= report.resident <= report.peak
    assert report.anonymous + report.file_backed == report.resident
    assert 0 < report.available <= report.total
    assert processor.physical_cores() >= 1


def test_report_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""

    def missing(self, *args, **kwargs) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    report = memory.memory_report()
    assert 0 < report.resident <= report.peak
    assert report.file_backed == 0


@pytest.mark.parametrize("version", [1, 2])
def test_cgroup_limit(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if version == 2:
        folder, names = tmp_path / "box", ("memory.max", "memory.current", "inactive_file")
        own = "0::/box/inner\n"
    else:
        folder = tmp_path / "memory" / "box"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        own = "9:cpu:/other\n5:memory:/box/inner\n"
    (folder / "inner").mkdir(parents=True)
    (folder / names[0]).write_text("1000000\n")
    (folder / names[1]).write_text("700000\n")
    (folder / "memory.stat").write_text(
        f"anon 1\n{names[2]} 150000\n{names[2].replace('inactive', 'active')} 50000\n"
    )
    (folder / "inner" / names[0]).write_text("max\n" if version == 2 else "9223372036854771712\n")
    (folder / "inner" / names[1]).write_text("700000\n")
    (folder / "inner" / "memory.stat").write_text("")
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *args: own if str(self) == "/proc/self/cgroup" else read_text(self, *args),
    )
    # The parent's limit counts, and cached files can be given back.
    assert memory._cgroup_limit_and_use(tmp_path) == (1000000, 500000)


def test_report_within_a_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(1000000, 500000), (1000000, 2000000), (None, 0)])  # one for each report
    monkeypatch.setattr(memory, "_cgroup_limit_and_use", lambda: next(readings))
    report = memory.memory_report()
    assert (report.available, report.total) == (500000, 1000000)
    assert memory.memory_report().available == 0
    assert memory.memory_report().total > 1000000


def test_cores_of_a_container(tmp_path: Path) -> None:
    assert processor._cgroup_cores(tmp_path) is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert processor._cgroup_cores(tmp_path) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processor._cgroup_cores(tmp_path) is None


def test_timings() -> None:
    from llama_cpu.generation.events import Prefill, Token
    from llama_cpu.generation.timings import Timings

    timings = Timings()
    assert timings.time_to_first_token is timings.median is timings.percentile_95 is None
    timings.observe(Prefill(reused=10, done=40, total=40, seconds=2.0))
    for milliseconds in [1, *range(1, 101)]:
        timings.observe(Token(0, "", milliseconds / 1000))
    assert timings.prefill_rate == 20.0
    assert timings.time_to_first_token == 2.001
    assert timings.median == 0.0505
    assert timings.percentile_95 == 0.095
    assert timings.decode_rate == pytest.approx(100 / 5.05)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")
def test_freed_memory_is_given_back() -> None:
    """In a process of its own, as the heap is everyone's."""
    code = "import torch\nfrom llama_cpu.system.memory import memory_report\n"
    code += "from llama_cpu.system.process import give_back_memory\n"
    code += "tensors = [torch.ones(1 << 18) for _ in range(200)]\n"  # a MiB each
    code += "last = torch.ones(1 << 18)\ndel tensors\ngive_back_memory()\n"
    code += "before = memory_report().anonymous\n"
    code += "tensors = [torch.ones(1 << 18) for _ in range(200)]\n"
    code += "grown = memory_report().anonymous - before\n"
    code += "last = torch.ones(1 << 18)\ndel tensors\ngive_back_memory()\n"
    code += "print(grown >> 20, (memory_report().anonymous - before) >> 20)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, left = map(int, done.stdout.split())
    assert grown > 150 and left < 20


def test_what_only_glibc_has_does_nothing_elsewhere() -> None:
    assert process._c_library("no_such_function_of_any_c_library", 1) == 0


def test_an_older_c_library_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse_much(function: str, *numbers: int) -> int:
        calls.append(numbers)
        return int(numbers[1] <= 256 << 20)

    monkeypatch.setattr(process, "_c_library", refuse_much)
    process.keep_freed_memory()
    assert [number for _, number in calls] == [1 << 30, 32 << 20, 256 << 20]


# The processor's name


def only(monkeypatch: pytest.MonkeyPatch, platform_name: str, cpuinfo: str | None) -> None:
    """A system of which only that much is known."""

    def read_text(self: Path, **_: object) -> str:
        if cpuinfo is None or str(self) != "/proc/cpuinfo":
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(processor.sys, "platform", platform_name)
    monkeypatch.setattr(processor.platform, "processor", lambda: "")
    monkeypatch.setattr(processor.platform, "machine", lambda: "riscv64")
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
    monkeypatch.setattr(processor.subprocess, "run", lambda *_, **__: told)
    assert processor.processor_name() == "Apple M9"

    def refuse(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("sysctl", 5)

    processor.processor_name.cache_clear()
    monkeypatch.setattr(processor.subprocess, "run", refuse)
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


# Swap


def test_what_was_swapped_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/vmstat": "nr_free_pages 7\npswpin 3\npswpout 5\n",
        "/proc/self/io": "rchar: 99\nread_bytes: 4096\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self: files[str(self)])
    page = paging.mmap.PAGESIZE
    assert paging.paging_report() == paging.PagingReport(3 * page, 5 * page, 4096)


def test_paging_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, and on Windows, which only says how much is in the paging file."""

    def missing(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(paging.sys, "platform", "darwin")
    swap = types.SimpleNamespace(sin=30, sout=50, used=70)
    monkeypatch.setattr(paging.psutil, "swap_memory", lambda: swap)
    report = paging.paging_report()
    assert (report.swapped_in, report.swapped_out) == (30, 50) and report.read >= 0
    monkeypatch.setattr(paging.sys, "platform", "win32")
    swap.sin = swap.sout = 0
    assert paging.paging_report().swapped_out == 70


def test_the_real_machine_has_figures() -> None:
    before, after = paging.paging_report(), paging.paging_report()
    assert 0 <= before.read <= after.read and 0 <= before.swapped_in <= after.swapped_in
    assert processor.processor_name() == processor.processor_name() != ""
