"""Compare merging with ``cat``, on shards of random float16 weights at the width of LLaMA 13B.

    python -m benchmarks.merge                    # 2 layers, 1.9 GB
    python -m benchmarks.merge --layers 40 --rounds 1 --cache cold    # 13B itself: 26 GB of shards

Each round writes one file with ``cat`` and one with ``merge_weights.py``, and deletes them. The
shards are in the same state of the system's cache, and the order alternates. Ratios are cat's time
divided by ours, as medians over the rounds. "write" does not include waiting for the disk; "whole"
includes syncing the file, the start of Python and everything else. POSIX only.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from llama_cpu.checkpoint.sharding import split_dimension
from llama_cpu.conversion.pth_writer import write_pth

DIM, HEADS, HIDDEN, VOCAB, SHARDS = 5120, 40, 13824, 32000, 2
SCRIPT = Path(__file__).resolve().parent.parent / "merge_weights.py"


class RandomTensor:
    """A stored float16 tensor whose rows are pieces of one pool of random numbers."""

    dtype = torch.float16
    pool = torch.randn(1 << 25).half()

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def mapped(self) -> None:
        return None

    def rows(self, first: int, last: int) -> "RandomTensor":
        return type(self)((last - first, *self.shape[1:]))

    def fill(self, target: torch.Tensor) -> None:
        start = int(torch.randint(len(self.pool) - target.numel(), ()))
        target.copy_(self.pool[start : start + target.numel()].view(target.shape))


class OnesTensor(RandomTensor):
    """A stored tensor of ones, for norms: every shard must hold the same copy."""

    def fill(self, target: torch.Tensor) -> None:
        target.fill_(1)


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    result: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (VOCAB, DIM)}
    for layer in range(layers):
        for name in ("wq", "wk", "wv", "wo"):
            result[f"layers.{layer}.attention.{name}.weight"] = (DIM, DIM)
        result[f"layers.{layer}.feed_forward.w1.weight"] = (HIDDEN, DIM)
        result[f"layers.{layer}.feed_forward.w2.weight"] = (DIM, HIDDEN)
        result[f"layers.{layer}.feed_forward.w3.weight"] = (HIDDEN, DIM)
        result[f"layers.{layer}.attention_norm.weight"] = (DIM,)
        result[f"layers.{layer}.ffn_norm.weight"] = (DIM,)
    return result | {"norm.weight": (DIM,), "output.weight": (VOCAB, DIM)}


def make_shards(folder: Path, layers: int) -> list[Path]:
    folder.mkdir(parents=True)
    params = {"dim": DIM, "n_layers": layers, "n_heads": HEADS, "norm_eps": 1e-6, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    tensors = {name: _shard(name, shape) for name, shape in shapes(layers).items()}
    files = [folder / f"consolidated.{rank:02d}.pth" for rank in range(SHARDS)]
    for path in files:
        with path.open("w+b", buffering=0) as file:
            write_pth(file, tensors, dict.fromkeys(tensors, torch.float16), lambda count: None)
            os.fsync(file.fileno())
    return files


def _shard(name: str, shape: tuple[int, ...]) -> RandomTensor:
    along = split_dimension(name, embedding_dimension=1)
    if along is None:
        return OnesTensor(shape)
    return RandomTensor(
        tuple(size // SHARDS if axis == along else size for axis, size in enumerate(shape))
    )


def prepare(files: list[Path], cache: str) -> None:
    """Load the shards into the system's cache ("warm"), or drop them from it."""
    os.sync()
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cache == "warm":
        subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)


def time_cat(files: list[Path], output: Path) -> tuple[float, float]:
    """Return the seconds to write, and the seconds until the file is synced."""
    start = time.perf_counter()
    with output.open("wb") as file:
        subprocess.run(["cat", *files], stdout=file, check=True)
        written = time.perf_counter()
        os.fsync(file.fileno())
    return written - start, time.perf_counter() - start


def time_merge(folder: Path, output: Path, options: list[str]) -> tuple[float, float]:
    command: list[str | Path] = [sys.executable, SCRIPT, "--input_dir", folder]
    command += ["--output_dir", output, "--tokenizer_dir", output, *options]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - start
    print("   ", done.stdout.splitlines()[0])
    found = re.search(r"GB in ([\d.]+) s", done.stdout)
    assert found is not None
    return float(found[1]), whole


def run(work: Path, files: list[Path], cache: str, rounds: int, options: list[str]) -> None:
    cat, merge = [], []
    for number in range(rounds):
        for name in ("cat", "merge") if number % 2 == 0 else ("merge", "cat"):
            prepare(files, cache)
            if name == "cat":
                cat.append(time_cat(files, work / "cat.out"))
                (work / "cat.out").unlink()
            else:
                merge.append(time_merge(files[0].parent, work / "merged", options))
                shutil.rmtree(work / "merged")
    size = sum(path.stat().st_size for path in files)
    for index, what in enumerate(("write", "whole")):
        cat_seconds = statistics.median(times[index] for times in cat)
        seconds = statistics.median(times[index] for times in merge)
        ratio = statistics.median(c[index] / m[index] for c, m in zip(cat, merge, strict=True))
        print(
            f"{cache} {what}: cat {cat_seconds:.2f} s ({size / 1e9 / cat_seconds:.2f} GB/s), "
            f"merge {seconds:.2f} s ({size / 1e9 / seconds:.2f} GB/s), ratio {ratio:.2f} "
            f"(median of {rounds})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2, help="40 for the real 13B (52 GB of disk)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", choices=("warm", "cold", "both"), default="both")
    parser.add_argument("--folder", type=Path, help="working folder (default: a temporary one)")
    parser.add_argument("options", nargs="*", help="options for merge_weights.py, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        start = time.perf_counter()
        files = make_shards(Path(work) / "13B", args.layers)
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} shards, {size / 1e9:.2f} GB, in {time.perf_counter() - start:.0f} s")
        for cache in ("warm", "cold") if args.cache == "both" else (args.cache,):
            run(Path(work), files, cache, args.rounds, args.options)


if __name__ == "__main__":
    main()
