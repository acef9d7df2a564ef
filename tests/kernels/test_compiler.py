"""Compiled code is cached, checked and compiled again, and its absence is survived."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from llama_cpu.kernels import compiler

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch
from llama_cpu.kernels.linear import KernelMatrix
target = torch.empty(3, 8)
KernelMatrix("BF16", torch.ones(3, 8, dtype=torch.bfloat16), 3, 8).widen(0, 3, target)
assert target.eq(1).all()
print("numba" in sys.modules)
"""
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(folder)}


def start(folder: Path, code: str = PROGRAM) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, code: str = PROGRAM) -> str:
    process = start(folder, code)
    output, errors = process.communicate()
    assert process.returncode == 0 and errors == "", errors
    return output.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is set by XDG_CACHE_HOME")
def test_compiled_once_and_again_if_damaged(tmp_path: Path) -> None:
    both = [start(tmp_path) for _ in range(2)]
    for process in both:  # at once
        output, errors = process.communicate()
        assert (process.returncode, output, errors) == (0, "True\n", "")
    assert run(tmp_path) == "False"  # loading needs no compiler
    (file,) = tmp_path.rglob("*.o")
    assert [path for path in file.parent.iterdir() if path != file] == []
    good = file.read_bytes()
    for damaged in (b"", good[:20], good[:-1], bytes([good[0] ^ 1]) + good[1:], b"x" * 40):
        assert compiler._checked(damaged) is None
    assert compiler._checked(good) == good[32:]
    file.write_bytes(good[:-1])
    assert run(tmp_path) == "True"
    assert compiler._checked(file.read_bytes())


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(compiler, "_folder", lambda: tmp_path)
    monkeypatch.setattr(compiler, "_compile", lambda name, arguments: b"code")
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert compiler._object("float16.widen", 5) == b"code"
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError):
        compiler._write(tmp_path / "folder" / "x.o", b"code")
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
def test_another_version_has_another_folder(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiler._folder.__wrapped__()
    monkeypatch.setattr(
        compiler, "version", lambda name: "0.0" if name == package else version(name)
    )
    assert compiler._folder.__wrapped__() != before


def test_without_numba_there_are_no_kernels(tmp_path: Path) -> None:
    code = BLOCKED + ("from llama_cpu.kernels import compiler\nprint(compiler.works())")
    assert run(tmp_path, code) == "False"
