"""Files get their names so that a kill in the midst of it is harmless, or at least noticed."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.cli import merge as merge_command
from llama_cpu.errors import UserError
from llama_cpu.system import atomic_files as atomic_files
from llama_cpu.system.atomic_files import AtomicFiles, remove_leftovers
from llama_cpu.system.file_io import require_replaceable
from tests.support.checkpoints import random_weights, read_all, tiny_config, write_meta
from tests.support.merging import ROOT, leftovers, merge, refused, write_half

WRITTEN = merge_command._WRITTEN

# Publishes the files of one folder in another, and is killed before the given change of names.
PUBLISHING = """
import os, signal, sys
from pathlib import Path
from llama_cpu.system.atomic_files import AtomicFiles

source, target, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
changes = 0

def count(event, arguments):
    global changes
    if event in ("os.rename", "os.remove"):
        if changes == last:
            os.kill(os.getpid(), signal.SIGKILL)
        changes += 1

with AtomicFiles(target) as files:
    for name in sys.argv[4:]:
        files.open(name).write((source / name).read_bytes())
    sys.addaudithook(count)
    files.publish()
"""


def publish_killed(source: Path, target: Path, last_change: int, names: list[str]) -> bool:
    """Whether it was killed; else it had fewer changes to make."""
    arguments = [str(source), str(target), str(last_change), *names]
    done = subprocess.run([sys.executable, "-c", PUBLISHING, *arguments], cwd=ROOT)
    assert done.returncode in (0, -9)
    return done.returncode != 0


def model(folder: Path, seed: int, n_shards: int, **options) -> Path:
    config = tiny_config(rope_theta=10000.0 + seed)  # in params.json
    return write_meta(folder, config, random_weights(config, seed), n_shards, **options)


def state(folder: Path, old: Path, new: Path) -> str:
    """What the loader makes of the folder."""
    try:
        config, weights = open_checkpoint(folder).config, read_all(folder)
    except UserError:
        return "refused"
    for name, model in (("old", old), ("new", new)):
        wanted = read_all(model)
        if config == open_checkpoint(model).config and all(
            torch.equal(weights[key], wanted[key]) for key in wanted
        ):
            return name
    return "mixed"


posix_only = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")


@posix_only
@pytest.mark.parametrize("n_shards", [1, 2])
def test_killed_between_any_two_files(n_shards: int, tmp_path: Path) -> None:
    """A merged.pth with other parameters, and shards over shards."""
    options = {"name": "merged.pth"} if n_shards == 1 else {}
    old = model(tmp_path / "old", 1, n_shards, **options)
    new = model(tmp_path / "new", 2, n_shards, **options)
    weights = sorted(path.name for path in new.glob("*.pth"))
    states: list[str] = []
    killed = True
    while killed:
        target = tmp_path / f"target{len(states)}"
        shutil.copytree(old, target)
        killed = publish_killed(new, target, len(states), [*weights, "params.json"])
        states.append(state(target, old, new))
        remove_leftovers(target, WRITTEN)
        assert leftovers(target) == []
        assert state(target, old, new) == states[-1]
    # Old; without params.json before each file; new but for the old params.json; new.
    assert states == ["old", *["refused"] * (n_shards + 1), "new", "new"]


@posix_only
def test_killed_with_the_same_parameters(tmp_path: Path) -> None:
    """Only merged.pth is published: the folder is the old model or the new one."""
    old, new = (model(tmp_path / name, 1, 1, name="merged.pth") for name in ("old", "new"))
    config = tiny_config(rope_theta=10001.0)
    write_meta(new, config, random_weights(config, 2), name="merged.pth")
    for moment, expected in enumerate(["old", "new"]):
        target = tmp_path / f"target{moment}"
        shutil.copytree(old, target)
        publish_killed(new, target, moment, ["merged.pth"])
        assert state(target, old, new) == expected


@posix_only
def test_a_new_folder_appears_at_once(tmp_path: Path) -> None:
    new = model(tmp_path / "new", 1, 2)
    names = ["consolidated.00.pth", "consolidated.01.pth", "params.json"]
    target = tmp_path / "[a] target"
    assert publish_killed(new, target, 0, names)
    assert not target.exists()
    assert len(leftovers(tmp_path)) == 1
    remove_leftovers(target, WRITTEN)
    assert leftovers(tmp_path) == []
    assert not publish_killed(new, target, 1, names)
    assert state(target, new, new) == "old"
    assert sorted(path.name for path in target.iterdir()) == names


def test_params_that_are_the_same_are_left_alone(shards: Path, output: Path) -> None:
    shutil.copy(shards / "params.json", output)
    before = (output / "params.json").stat()
    assert merge("--input_dir", shards, "--output_dir", output, "--force") == 0
    assert (output / "params.json").stat().st_ino == before.st_ino
    assert (output / "params.json").stat().st_mtime_ns == before.st_mtime_ns


def test_split_over_a_split(tmp_path: Path) -> None:
    old, new = model(tmp_path / "old", 1, 1), model(tmp_path / "new", 2, 1)
    words = ("--split", 2, "--output_dir", tmp_path / "split")
    for source, extra in ((old, ()), (new, ("--force",))):
        assert merge("--input_dir", source, *words, *extra) == 0
        assert state(tmp_path / "split", old, new) == source.name
        assert len(list((tmp_path / "split").iterdir())) == 3
        assert leftovers(tmp_path) == []


def test_a_failure_leaves_no_new_folder(shards: Path, tmp_path: Path, capsys) -> None:
    path = shards / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:-5000])
    refused(capsys, tmp_path / "no" / "out", "--input_dir", shards)
    assert not (tmp_path / "no" / "out").exists()

    with pytest.raises(RuntimeError), AtomicFiles(tmp_path / "out") as files:
        files.open("merged.pth")
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "no") == ["in"]


def test_a_folder_that_another_process_writes_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with AtomicFiles(folder) as at_work:
        at_work.open("params.json").write(b"{}")
        remove_leftovers(folder, WRITTEN)
        at_work.publish()
    assert [path.name for path in folder.iterdir()] == ["params.json"]
    own = tmp_path / "out.part-1" / "notes.txt"
    own.parent.mkdir()
    own.write_text("the user's")
    remove_leftovers(folder, WRITTEN)
    assert own.exists()


@pytest.mark.parametrize("exists", [True, False])
def test_stopped_as_soon_as_a_file_is_there(exists: bool, tmp_path: Path, monkeypatch) -> None:
    """The signal comes within open itself, which then returns nothing."""
    folder = tmp_path / "out"
    if exists:
        folder.mkdir()
    open_file = Path.open

    def stopped(self: Path, *words, **options) -> None:
        open_file(self, *words, **options).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", stopped)
    with pytest.raises(KeyboardInterrupt), AtomicFiles(folder) as files:
        files.open("merged.pth")
    assert list(tmp_path.rglob("*")) == ([folder] if exists else [])


def test_files_of_a_process_with_the_same_number_stay(tmp_path: Path) -> None:
    other = tmp_path / f"merged.pth.part-{os.getpid()}"
    other.write_bytes(b"of another container")
    with pytest.raises(FileExistsError), AtomicFiles(tmp_path) as files:
        files.open("merged.pth")
    assert other.read_bytes() == b"of another container"


def failing_replace(monkeypatch, name: str) -> None:
    """No file can get this name, as if another program held the one that is there."""
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target).name == name and ".old." not in self.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)


def test_the_first_file_cannot_be_replaced(tmp_path: Path, capsys, monkeypatch) -> None:
    """The old model is whole again, params.json included."""
    old, new = model(tmp_path / "old", 1, 2), model(tmp_path / "new", 2, 1)
    failing_replace(monkeypatch, "consolidated.00.pth")
    assert "unchanged" in refused(capsys, old, "--input_dir", new, "--split", 2)


def test_a_later_file_cannot_be_replaced(tmp_path: Path, capsys, monkeypatch) -> None:
    old, new = model(tmp_path / "old", 1, 2), model(tmp_path / "new", 2, 1)
    failing_replace(monkeypatch, "consolidated.01.pth")
    words = ("--input_dir", new, "--split", 2, "--output_dir", old, "--force")
    assert merge(*words) == 2
    assert "run this again" in capsys.readouterr().err
    assert state(old, old, new) == "refused"
    assert leftovers(old) == []
    monkeypatch.undo()
    assert merge(*words) == 0
    assert state(old, new, new) == "old"


def test_interrupted_while_publishing(tmp_path: Path, monkeypatch) -> None:
    """Ctrl+C comes to the main thread while the other one is in the midst of it."""
    old, new = model(tmp_path / "old", 1, 2), model(tmp_path / "new", 2, 1)
    replace = Path.replace

    def interrupt(self: Path, target: Path) -> Path:
        if Path(target).name == "consolidated.01.pth":
            import _thread

            _thread.interrupt_main()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    words = ("--input_dir", new, "--split", 2, "--output_dir", old, "--force")
    assert merge(*words) == 130
    monkeypatch.undo()
    assert leftovers(old) == []
    assert merge("--input_dir", old, "--output_dir", tmp_path / "again") == 0
    assert state(tmp_path / "again", new, new) == "old"


def publish_interrupted(monkeypatch, start: Callable, new: Path, target: Path) -> None:
    """Publish the files of one folder in another, Ctrl+C coming in ``start`` of the thread."""
    with pytest.raises(KeyboardInterrupt), AtomicFiles(target) as files:
        for path in sorted(new.iterdir()):  # params.json comes last
            files.open(path.name).write(path.read_bytes())
        monkeypatch.setattr(threading.Thread, "start", start)
        files.publish()


def test_interrupted_in_the_start_of_the_thread_that_publishes(tmp_path: Path, monkeypatch) -> None:
    """It is in the midst of it when the main thread would clean up."""
    old, new = model(tmp_path / "old", 1, 2), model(tmp_path / "new", 2, 2)
    begun = threading.Event()
    start, replace = threading.Thread.start, Path.replace

    def slow_replace(self: Path, target: Path) -> Path:
        begun.set()
        time.sleep(0.05)
        return replace(self, target)

    def interrupted(self: threading.Thread) -> None:
        start(self)
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", slow_replace)
    target = shutil.copytree(old, tmp_path / "target")
    publish_interrupted(monkeypatch, interrupted, new, target)
    assert state(target, old, new) == "new"
    assert leftovers(target) == []


@posix_only
def test_interrupted_again_while_that_thread_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    old, new = model(tmp_path / "old", 1, 2), model(tmp_path / "new", 2, 2)
    replace, leave = Path.replace, AtomicFiles._leave
    waited = threading.Event()

    def interrupting_replace(self: Path, target: Path) -> Path:
        if not waited.is_set():
            main = threading.main_thread().ident or 0
            signal.pthread_kill(main, signal.SIGINT)
            assert waited.wait(60)  # the main thread has heard it, and hears one more
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)
        return replace(self, target)

    def heard(self: AtomicFiles) -> None:
        waited.set()
        leave(self)

    monkeypatch.setattr(Path, "replace", interrupting_replace)
    monkeypatch.setattr(AtomicFiles, "_leave", heard)
    target = shutil.copytree(old, tmp_path / "target")
    publish_interrupted(monkeypatch, threading.Thread.start, new, target)
    assert state(target, old, new) == "new"
    assert leftovers(target) == []


def test_interrupted_before_the_thread_begins(tmp_path: Path, monkeypatch) -> None:
    """Then it changes nothing any more, whenever it does."""
    old, new = model(tmp_path / "old", 1, 2), model(tmp_path / "new", 2, 2)
    late: list[threading.Thread] = []

    def interrupted(self: threading.Thread) -> None:
        late.append(self)
        raise KeyboardInterrupt

    target = shutil.copytree(old, tmp_path / "target")
    publish_interrupted(monkeypatch, interrupted, new, target)
    monkeypatch.undo()
    for thread in late:
        thread.start()
        thread.join()
    assert len(late) == 1
    assert state(target, old, new) == "old"
    assert leftovers(target) == []


@pytest.mark.parametrize("name", ["merged.pth", "params.json"])
def test_a_file_in_use_is_seen_before_the_first_byte(
    name: str, shards: Path, output: Path, capsys, monkeypatch
) -> None:
    def refuse(path: Path) -> None:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(atomic_files, "require_replaceable", refuse)
    monkeypatch.setattr("llama_cpu.conversion.merge.write_pth", lambda *_: pytest.fail("written"))
    sentence = refused(capsys, output, "--input_dir", shards)
    assert str(output / name) in sentence
    assert "another program has it open" in sentence


def test_a_folder_of_that_name_is_seen_before_the_first_byte(
    shards: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "out" / "merged.pth").mkdir(parents=True)
    sentence = refused(capsys, tmp_path / "out", "--input_dir", shards)
    assert "cannot be replaced" in sentence


def test_what_can_be_replaced(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "merged.pth"
    require_replaceable(path)  # not there
    path.write_bytes(b"old")
    require_replaceable(path)
    assert path.read_bytes() == b"old"

    def in_use(self: Path, target: Path) -> None:  # what Windows does
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(Path, "rename", in_use)
    with pytest.raises(PermissionError):
        require_replaceable(path)


def test_through_a_link_that_leads_nowhere_yet(tmp_path: Path) -> None:
    shards = write_half(tmp_path / "13B", 2)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    assert merge("--input_dir", shards, "--output_dir", tmp_path / "link") == 0
    assert (tmp_path / "disk" / "out" / "merged.pth").is_file()
