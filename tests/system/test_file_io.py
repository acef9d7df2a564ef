"""File operations, with and without the calls that only some systems have."""

import os
from io import FileIO
from pathlib import Path

import pytest

from llama_cpu.system import file_io


@pytest.fixture(params=["with the system's calls", "without them"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileIO:
    """An open file of 100 bytes, 0 to 99."""
    if request.param == "without them":  # as on Windows
        for call in ("preadv", "pwrite", "posix_fadvise"):
            monkeypatch.delattr(os, call, raising=False)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    return path.open("r+b", buffering=0)


def test_reads_name_their_place(file: FileIO) -> None:
    target = bytearray(10)
    assert file_io.read_at(file, 40, memoryview(target)) == 10
    assert target == bytes(range(40, 50))
    assert file_io.read_at(file, 0, memoryview(target)) == 10
    assert target == bytes(range(10))


def test_a_read_past_the_end_is_short(file: FileIO) -> None:
    target = bytearray(10)
    assert file_io.read_at(file, 95, memoryview(target)) == 5
    assert target[:5] == bytes(range(95, 100))
    assert file_io.read_at(file, 200, memoryview(target)) == 0


def test_writes_name_their_place(file: FileIO) -> None:
    file_io.write_at(file, 98, memoryview(b"abcd"))
    file_io.write_at(file, 0, memoryview(b"xy"))
    content = Path(str(file.name)).read_bytes()
    assert content == b"xy" + bytes(range(2, 98)) + b"abcd"


def test_hints_leave_the_content_alone(file: FileIO) -> None:
    file_io.read_ahead(file, 0, 100)
    file_io.forget_cached(file)
    assert Path(str(file.name)).read_bytes() == bytes(range(100))
    file.close()
    file_io.read_ahead(FileIO(str(file.name)), 0, 1 << 40)  # more than there is


@pytest.mark.skipif(os.name == "nt", reason="Windows needs no lock")
def test_one_open_file_holds_the_lock(file: FileIO) -> None:
    with FileIO(str(file.name)) as other:
        assert file_io.lock_file(file)
        assert not file_io.lock_file(other)
        file.close()
        assert file_io.lock_file(other)


def test_replaceable(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file_io.require_replaceable(path)  # nothing is there
    path.write_bytes(b"kept")
    file_io.require_replaceable(path)
    assert path.read_bytes() == b"kept"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError):
        file_io.require_replaceable(folder)


def test_names_are_synced(tmp_path: Path) -> None:
    file_io.sync_folder(tmp_path)
    if os.name != "nt":
        with pytest.raises(FileNotFoundError):
            file_io.sync_folder(tmp_path / "missing")
