"""Running merge_weights.py, and an independent way of joining shards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor

from llama_cpu.cli.main import merge_main
from llama_cpu.model.config import ModelConfig
from tests.support.checkpoints import random_weights, tiny_config, write_meta

ROOT = Path(__file__).parent.parent.parent
OLD = b"the merged.pth of before"


def merge(*words: object) -> int:
    """Exit code of merge_weights.py, in this process; the tokenizer stays out of the checkout."""
    options = [str(word) for word in words]
    if "--tokenizer_dir" not in options:
        options += ["--tokenizer_dir", str(options[options.index("--output_dir") + 1])]
    return merge_main(options)


def refused(capsys, output: Path, *words: object) -> str:
    """The one sentence; the model of before must be as it was."""
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert merge(*words, "--output_dir", output, "--force") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    return lines[0]


def write_half(folder: Path, n_shards: int, config: ModelConfig | None = None, **options) -> Path:
    """A random float16 model in Meta's layout, cut into shards."""
    config = config or tiny_config()
    weights = {name: tensor.half() for name, tensor in random_weights(config).items()}
    return write_meta(folder, config, weights, n_shards, **options)


def joined_by_cat(folder: Path, embedding_dim: int = 1) -> dict[str, Tensor]:
    """The shards joined with plain torch.cat, by rules written down here once more."""
    files = sorted(folder.glob("consolidated.*.pth"))
    shards = [torch.load(file, weights_only=True) for file in files]
    joined = {}
    for name in shards[0]:
        parts = [shard[name] for shard in shards]
        if "norm" in name:
            joined[name] = parts[0]
        elif name == "tok_embeddings.weight":
            joined[name] = torch.cat(parts, dim=embedding_dim)
        elif name.endswith(("wo.weight", "w2.weight")):
            joined[name] = torch.cat(parts, dim=1)
        elif name != "rope.freqs":
            joined[name] = torch.cat(parts, dim=0)
    return joined


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.shape == other[name].shape, name
        assert torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8)), name


def load_merged(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "merged.pth", weights_only=True)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.part-*")]


# Imports everything once and forks the runs, which would else be mostly imports. A run may stop
# (SIGSTOP) as soon as it has written some of the weights.
_FORKING = """
import json, os, signal, sys
from pathlib import Path
from llama_cpu.cli.main import merge_main
from llama_cpu.conversion import pth_writer
from llama_cpu.checkpoint.meta import open_shards
open_shards(Path(sys.argv[1]))
copy_tensors = pth_writer.copy_tensors
def stop_after_first_bytes(file, placed, on_bytes):
    left_to_stop = [os.getpid()]
    def stop_once(count):
        if left_to_stop:
            os.kill(left_to_stop.pop(), signal.SIGSTOP)
        on_bytes(count)
    return copy_tensors(file, placed, stop_once)
for line in sys.stdin:
    run = json.loads(line)
    pid = os.fork()
    if pid == 0:
        printed = os.open(run["printed"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        if run["file_size_limit"]:
            import resource
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (run["file_size_limit"],) * 2)
        if run["stops"]:
            pth_writer.copy_tensors = stop_after_first_bytes
        code = 99
        try:
            code = merge_main(run["words"])
        except SystemExit as leaving:
            code = leaving.code
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class MergeRuns:
    """Runs of merge_weights.py, one after the other, each in a process of its own. POSIX only."""

    def __init__(self, shards: Path, printed: Path) -> None:
        """``shards``: any that can be opened; ``printed``: the file for what a run prints."""
        self.printed = printed
        command = [sys.executable, "-c", _FORKING, str(shards)]
        pipe = subprocess.PIPE
        self._parent = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._running: int | None = None  # a process that nobody has waited for

    def start(self, *words: object, file_size_limit: int = 0, stops: bool = False) -> int:
        """Id of the process; with ``stops`` it has stopped in the midst of writing."""
        run = {
            "words": list(map(str, words)),
            "printed": str(self.printed),
            "file_size_limit": file_size_limit,
            "stops": stops,
        }
        assert self._parent.stdin is not None
        print(json.dumps(run), file=self._parent.stdin, flush=True)
        pid = self._running = self._line()
        if stops:
            self._wait_until_stopped(pid)
        return pid

    def _wait_until_stopped(self, pid: int) -> None:
        end = time.monotonic() + 60
        try:
            process = psutil.Process(pid)
            while process.status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < end
                time.sleep(0.001)
        except (psutil.NoSuchProcess, AssertionError) as error:
            self._kill()
            raise AssertionError(
                f"It did not stop, and printed: {self.printed.read_text()}"
            ) from error

    def _kill(self) -> None:
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Exit code; minus the number of the signal where one killed it."""
        code, self._running = self._line(), None
        return code

    def close(self) -> None:
        self._kill()
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(timeout=60)
        self._parent.stdout.close()

    def _line(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())
