"""What merge_weights.py refuses, and what is left when it is stopped."""

import contextlib
import errno
import os
import pickle
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llama_cpu.checkpoint.pth import _Archive
from llama_cpu.conversion import block_copy
from llama_cpu.system.atomic_files import AtomicFiles, remove_leftovers
from tests.bad_input.test_weights import zipped_again
from tests.support.checkpoints import tiny_config
from tests.support.merging import (
    OLD,
    MergeRuns,
    assert_same,
    joined_by_cat,
    leftovers,
    load_merged,
    merge,
    refused,
    write_half,
)


def test_params_missing(shards: Path, output: Path, capsys) -> None:
    (shards / "params.json").unlink()
    assert "params.json" in refused(capsys, output, "--input_dir", shards)


def test_params_of_another_model(shards: Path, output: Path, tmp_path: Path, capsys) -> None:
    other = write_half(tmp_path / "other", 1, tiny_config(n_layers=3))
    shutil.copy(other / "params.json", shards)
    assert "3 layers" in refused(capsys, output, "--input_dir", shards)


def test_shard_missing_in_the_middle(output: Path, tmp_path: Path, capsys) -> None:
    folder = write_half(tmp_path / "30B", 4)
    (folder / "consolidated.02.pth").unlink()
    sentence = refused(capsys, output, "--input_dir", tmp_path, "--model_size", "30B")
    assert "lacks the shard consolidated.02.pth" in sentence


def test_last_shard_missing_where_the_size_is_not_named(
    output: Path, tmp_path: Path, capsys
) -> None:
    folder = write_half(tmp_path / "x", 4)
    (folder / "consolidated.03.pth").unlink()
    assert "shape" in refused(capsys, output, "--input_dir", folder)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_truncated_shard(kept: float, shards: Path, output: Path, capsys) -> None:
    path = shards / "consolidated.01.pth"
    size = path.stat().st_size
    os.truncate(path, int(kept if kept > 1 else kept * size))
    assert str(path) in refused(capsys, output, "--input_dir", shards)


def test_hostile_pickle(shards: Path, output: Path, tmp_path: Path, capsys) -> None:
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was_run",)

    torch.save({"norm.weight": Hostile()}, shards / "consolidated.01.pth", pickle_module=pickle)
    sentence = refused(capsys, output, "--input_dir", shards)
    assert "run code" in sentence
    assert not (tmp_path / "was_run").exists()


def change(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = torch.load(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    torch.save(tensors, path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("layers.1.ffn_norm.weight", torch.zeros(64).half()),  # another copy
        ("layers.1.attention.wq.weight", torch.zeros(32, 60).half()),  # cannot be joined
        ("layers.0.feed_forward.w2.weight", torch.zeros(64).half()),
        ("layers.0.attention.wo.weight", torch.zeros(64, 32)),  # another type
        ("output.weight", None),
        ("layers.0.attention.bias", torch.zeros(4)),
    ],
)
def test_shards_that_do_not_fit_name_the_tensor(
    name: str, tensor: torch.Tensor | None, shards: Path, output: Path, capsys
) -> None:
    change(shards / "consolidated.01.pth", name, tensor)
    assert f"'{name}'" in refused(capsys, output, "--input_dir", shards)


def test_type_that_cannot_be_written(output: Path, tmp_path: Path, capsys) -> None:
    folder = write_half(tmp_path / "in", 1)
    tensor = torch.ones(64).to(torch.float8_e4m3fn)
    change(folder / "consolidated.00.pth", "norm.weight", tensor)
    sentence = refused(capsys, output, "--input_dir", folder)
    assert "'norm.weight'" in sentence
    assert "--bf16" in sentence
    assert merge("--input_dir", folder, "--bf16", "--output_dir", output, "--force") == 0


@pytest.mark.parametrize("name", ["params.json", "merged.pth"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files in a folder")
def test_output_that_is_no_file(kind: str, name: str, shards: Path, output: Path, capsys) -> None:
    path = output / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    for options in ([], ["--force"]):
        assert merge("--input_dir", shards, "--output_dir", output, *options) == 2
        assert f"{name} is not a file" in capsys.readouterr().err


def test_verify_does_not_trust_our_reader(shards: Path, output: Path, capsys, monkeypatch) -> None:
    start = _Archive.storage_start
    monkeypatch.setattr(_Archive, "storage_start", lambda *given: start(*given) - 2)
    assert "holds other values" in refused(capsys, output, "--input_dir", shards, "--verify")


def test_verify_of_shards_zipped_again(shards: Path, output: Path) -> None:
    wanted = joined_by_cat(shards)
    for file in shards.glob("*.pth"):
        file.write_bytes(zipped_again(file.read_bytes()))
    assert merge("--input_dir", shards, "--output_dir", output, "--force", "--verify") == 0
    assert_same(load_merged(output), wanted)


def test_output_folder_equal_to_the_input_folder(shards: Path, capsys) -> None:
    linked = shards.parent / "link"
    linked.symlink_to(shards)
    for output in (shards, linked):
        assert "--output_dir" in refused(capsys, output, "--input_dir", shards)


def test_output_folder_is_a_file(shards: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "file" in refused(capsys, output, "--input_dir", shards)


def test_read_only_folder(shards: Path, output: Path, capsys, monkeypatch) -> None:
    def refuse(self: AtomicFiles, name: str):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(AtomicFiles, "open", refuse)  # as root may write anywhere
    assert "Permission denied" in refused(capsys, output, "--input_dir", shards)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_really_read_only_folder(shards: Path, output: Path, capsys) -> None:
    output.chmod(0o500)
    assert "Permission denied" in refused(capsys, output, "--input_dir", shards)


def test_too_little_room_is_seen_before_the_first_byte(
    shards: Path, output: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1000))
    monkeypatch.setattr(AtomicFiles, "open", lambda *_: pytest.fail("something was written"))
    assert "GB free" in refused(capsys, output, "--input_dir", shards)


@pytest.mark.parametrize("at", [0, 5, 30])
def test_disk_full_while_writing(at: int, shards: Path, output: Path, capsys, monkeypatch) -> None:
    written = []

    def fill_up(file, start, data) -> None:
        written.append(start)
        if len(written) > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.pwrite(file.fileno(), data, start)

    monkeypatch.setattr(block_copy, "write_at", fill_up)
    monkeypatch.setattr(block_copy, "BLOCK_BYTES", 1000)
    assert "the disk is full" in refused(capsys, output, "--input_dir", shards)


def test_an_existing_model_is_not_overwritten_unasked(shards: Path, output: Path, capsys) -> None:
    assert merge("--input_dir", shards, "--output_dir", output) == 2
    assert "--force" in capsys.readouterr().err
    assert (output / "merged.pth").read_bytes() == OLD


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("n", 1)])
def test_the_prompt(
    answer: str, code: int, shards: Path, output: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert merge("--input_dir", shards, "--output_dir", output) == code
    assert ((output / "merged.pth").read_bytes() == OLD) == (code == 1)


def test_end_of_input_at_the_prompt_is_no(shards: Path, output: Path, capsys, monkeypatch) -> None:
    def end(question: str) -> str:
        raise EOFError

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", end)
    assert merge("--input_dir", shards, "--output_dir", output) == 1
    assert "Nothing was changed." in capsys.readouterr().out
    assert (output / "merged.pth").read_bytes() == OLD


def test_params_of_another_model_are_not_overwritten_unasked(
    shards: Path, tmp_path: Path, capsys
) -> None:
    other = write_half(tmp_path / "out", 1, tiny_config(n_layers=1))
    before = (other / "params.json").read_bytes()
    assert merge("--input_dir", shards, "--output_dir", other) == 2
    assert "params.json would be overwritten" in capsys.readouterr().err
    assert (other / "params.json").read_bytes() == before


def test_weights_that_the_loader_would_prefer(shards: Path, output: Path, capsys) -> None:
    words = ("--input_dir", shards, "--format", "safetensors")
    assert "move it away" in refused(capsys, output, *words)
    (output / "merged.pth").rename(output / "consolidated.07.pth")
    assert "move it away" in refused(capsys, output, "--input_dir", shards, "--split", 2)


def test_verify_finds_a_changed_byte(shards: Path, output: Path, capsys, monkeypatch) -> None:
    sync = AtomicFiles.sync

    def sync_and_spoil(self: AtomicFiles) -> None:
        sync(self)
        path = next(output.glob("merged.pth.part-*"))
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(AtomicFiles, "sync", sync_and_spoil)
    assert "other values in" in refused(capsys, output, "--input_dir", shards, "--verify")


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    killed = tmp_path / "merged.pth.part-1"
    killed.write_bytes(b"half")
    own = tmp_path / "merged.pth.part-backup"
    own.write_bytes(b"the user's")
    with AtomicFiles(tmp_path) as at_work:
        at_work.open("merged.pth")
        remove_leftovers(tmp_path, ["merged.pth"])
        assert sorted(leftovers(tmp_path)) == sorted([f"merged.pth.part-{os.getpid()}", own.name])
    assert leftovers(tmp_path) == [own.name]


if os.name == "nt":
    pytest.skip("needs POSIX's processes and signals", allow_module_level=True)


@pytest.fixture(scope="module")
def larger_shards(tmp_path_factory) -> Path:
    """Large enough that there is a while in which to stop the writing: 55 MB."""
    config = tiny_config(dim=1024, n_heads=8, n_kv_heads=8, head_dim=128, hidden_dim=2752)
    return write_half(tmp_path_factory.mktemp("larger"), 2, config)


@pytest.fixture(scope="module")
def runs(larger_shards: Path, tmp_path_factory) -> Iterator[MergeRuns]:
    runs = MergeRuns(larger_shards, tmp_path_factory.mktemp("runs") / "printed")
    yield runs
    runs.close()


def start_and_stop_within(runs: MergeRuns, shards: Path, output: Path) -> int:
    words = ("--input_dir", shards, "--output_dir", output, "--tokenizer_dir", output)
    pid = runs.start(*words, "--force", "--verify", stops=True)
    assert f"merged.pth.part-{pid}" in leftovers(output)
    return pid


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_everything_as_it_was(
    name: str, code: int, runs: MergeRuns, larger_shards: Path, output: Path
) -> None:
    pid = start_and_stop_within(runs, larger_shards, output)
    os.kill(pid, getattr(signal, name))
    os.kill(pid, signal.SIGCONT)
    assert runs.wait() == code
    assert "Traceback" not in runs.printed.read_text()
    assert (output / "merged.pth").read_bytes() == OLD
    assert [path.name for path in output.iterdir()] == ["merged.pth"]


def test_file_size_limit_while_writing(runs: MergeRuns, larger_shards: Path, output: Path) -> None:
    """The system itself refuses, here by a limit on the size of files (setrlimit(2))."""
    words = ("--input_dir", larger_shards, "--output_dir", output, "--force")
    runs.start(*words, file_size_limit=10_000_000)
    assert runs.wait() == 2
    assert "cannot be written to" in runs.printed.read_text()
    assert [path.name for path in output.iterdir()] == ["merged.pth"]
    assert (output / "merged.pth").read_bytes() == OLD


def test_killed_at_twenty_moments(
    runs: MergeRuns, larger_shards: Path, output: Path, tmp_path: Path
) -> None:
    """From the first bytes to the end: the old file is whole, or in its place the new one."""
    whole = tmp_path / "whole"
    assert merge("--input_dir", larger_shards, "--output_dir", whole) == 0
    assert_same(load_merged(whole), joined_by_cat(larger_shards))
    new = (whole / "merged.pth").read_bytes()
    chooser = random.Random(0)
    found = []
    for number in range(20):
        (output / "merged.pth").write_bytes(OLD)
        pid = start_and_stop_within(runs, larger_shards, output)
        if number == 0:  # killed where it has stopped
            os.kill(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGCONT)
        if 0 < number < 19:  # the last one may end
            time.sleep(chooser.uniform(0, 0.3))
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)
        runs.wait()
        found.append((output / "merged.pth").read_bytes())
        # What the run before left is gone.
        assert all(name.endswith(f".part-{pid}") for name in leftovers(output))
    assert all(content in (OLD, new) for content in found)
    assert (found[0], found[-1]) == (OLD, new)
    print(f"{found.count(OLD)} of 20 were killed before the new file was there")
    assert merge("--input_dir", larger_shards, "--output_dir", output, "--force") == 0
    assert leftovers(output) == []
    assert (output / "merged.pth").read_bytes() == new
