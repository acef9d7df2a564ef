"""Merging against ``cat``, on shards of random float16 at LLaMA 13B's width.

    python -m benchmarks.merge                    # 2 layers, 1.9 GB
    python -m benchmarks.merge --layers 40 --rounds 1 --cache cold    # 13B itself: 26 GB of shards

Each round makes one file with ``cat`` and one with ``merge_weights.py``, from shards in the same
state of the system's cache, in turn the one and the other first, and removes it again. Ratios are
cat's time / ours, medians over the rounds: without waiting for the disk ("write"), and with the
file synced, Python's start and everything else included ("whole"). POSIX only.
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
    """Random float16, a piece of one pool of random numbers for each block that is asked for."""

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
    """Norms: every shard must hold the same copy."""

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
    """Bring the shards into the cache, or out of it."""
    os.sync()
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cache == "warm":
        subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)


def time_cat(files: list[Path], output: Path) -> tuple[float, float]:
    """(seconds to write, seconds until synced)"""
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
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a new)")
    parser.add_argument("options", nargs="*", help="for merge_weights.py, after --")
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
