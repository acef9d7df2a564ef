"""The measured models, written once in each file format that a side reads.

The random models have bfloat16 weights, so that their files in bfloat16 and float32 are equal.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.gguf_files import rewrite_gguf, stored_bytes, write_random
from benchmarks.sides import ROOT, SideFailed
from llama_cpu.checkpoint.gguf import QuantizedTensor, open_gguf
from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.conversion.safetensors_writer import write_safetensors
from llama_cpu.loading.demo_model import fetch_demo_model
from llama_cpu.model.config import ModelConfig
from llama_cpu.system.processor import physical_cores
from tests.support.checkpoints import LLAMA_7B

FILE = "file"  # the format whose weights stay in the quantization of their file
FILE_KINDS = ("Q4_0", "Q4_K_M")  # the files of the random models for that format
CONTEXT_LENGTH = 8192

MODELS: dict[str, ModelConfig | None] = {
    "7B-width": replace(LLAMA_7B, n_layers=8, context_length=CONTEXT_LENGTH),
    "1.1B": ModelConfig(
        dim=2048,
        n_layers=22,
        n_heads=32,
        n_kv_heads=4,
        head_dim=64,
        hidden_dim=5632,
        vocab_size=32000,
        norm_eps=1e-5,
        rope_theta=10000.0,
        context_length=CONTEXT_LENGTH,
    ),
    "demo": None,  # a real file
}


@dataclass(frozen=True)
class ModelFiles:
    """One model in a folder. Our engine reads ``source`` in every precision."""

    source: Path
    source_precision: str | None  # None: quantized
    config: ModelConfig
    folder: Path
    python: str = sys.executable  # of the environment with llama.cpp, which quantizes

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors of ``source``, with Meta's names."""
        return open_gguf(self.source).tensors

    def in_own_kinds(self) -> "dict[str, ModelFiles]":
        """Return the files that run in their own quantization, by its name. Raises SideFailed."""
        if self.source_precision is None:
            kind = main_kind(self.tensors)
            link = self.folder / f"{self.source.stem}.{kind}.gguf"
            if not link.exists():  # peers store their conversions beside it
                link.symlink_to(self.source)
            return {kind: replace(self, source=link)}
        return {kind: replace(self, source=self.quantized(kind)) for kind in FILE_KINDS}

    def quantized(self, kind: str) -> Path:
        """Return a GGUF file quantized by llama.cpp, as ``Q4_K_M`` for example.

        It is made from unquantized weights, and once. Raises SideFailed if llama.cpp is missing.
        """
        path = self.folder / f"{self.source.stem}.llama.cpp-{kind}.gguf"
        if not path.exists():
            unquantized = self.as_gguf(self.source_precision or "float32")
            words = [self.python, "-m", "benchmarks.workers.quantize", str(unquantized)]
            threads = str(physical_cores())
            write_whole(path, lambda file: _run([*words, str(file), kind, threads]))
        return path

    def as_gguf(self, precision: str) -> Path:
        """Return a GGUF file with the same weights in this precision; write it if necessary."""
        if precision == self.source_precision:
            return self.source
        path = self.folder / f"{self.source.stem}.{precision}.gguf"
        if not path.exists():
            write_whole(path, lambda file: rewrite_gguf(self.source, file, precision))
        return path

    def as_safetensors(self) -> Path:
        """Return a safetensors file with Meta's names, unquantised; write it if necessary."""
        path = self.folder / f"{self.source.stem}.safetensors"
        if not path.exists():
            tensors = dict(self.tensors)
            dtypes = {name: tensor.dtype or torch.float32 for name, tensor in tensors.items()}

            def write(file: Path) -> None:
                with file.open("w+b", buffering=0) as raw:
                    write_safetensors(raw, tensors, dtypes, lambda count: None)

            write_whole(path, write)
        return path


def prepare(name: str, folder: Path, python: str = sys.executable) -> ModelFiles:
    """Return the files of a model, after writing or downloading its source if necessary.

    ``python``: the interpreter of the environment with llama.cpp.
    """
    config = MODELS[name]
    if config is None:
        source = fetch_demo_model()
    else:
        source = folder / f"{name}.{config.context_length}.gguf"
        if not source.exists():
            print(f"writing {source.name} ...", flush=True)
            write_whole(source, lambda file: write_random(file, config))
    return files_of(source, folder, python)


def files_of(source: Path, folder: Path, python: str = sys.executable) -> ModelFiles:
    """Return the files of the model in a GGUF file; those that are written go to ``folder``."""
    checkpoint = open_gguf(source)
    matrices = [tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) > 1]
    is_quantized = any(tensor.dtype is None for tensor in matrices)
    names = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bf16"}
    precision = None if is_quantized else names[matrices[0].dtype or torch.float32]
    return ModelFiles(source, precision, checkpoint.config, folder, python)


def main_kind(tensors: Mapping[str, StoredTensor]) -> str:
    """Return the name of the quantization in which most bytes of a file are."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if isinstance(tensor, QuantizedTensor):
            sizes[tensor.quantization.name] += stored_bytes(tensor)
    return sizes.most_common(1)[0][0]


def _run(command: list[str]) -> None:
    """Run a program of the peers' environment. Raises SideFailed with its last line of errors."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SideFailed(
            (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        )


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path, and rename the file to ``path`` once complete."""
    partial = path.with_suffix(".partial")
    write(partial)
    partial.replace(path)
