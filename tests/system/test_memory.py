"""Memory reports: of this machine, without /proc, and within a cgroup."""

from pathlib import Path

import pytest

from llama_cpu.system import memory


def test_report_is_consistent() -> None:
    report = memory.memory_report()
    assert 0 < report.anonymous <= report.resident <= report.peak
    assert report.anonymous + report.file_backed == report.resident
    assert 0 < report.available <= report.total


def test_report_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""

    def missing(self: Path, *args: object, **kwargs: object) -> str:
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
