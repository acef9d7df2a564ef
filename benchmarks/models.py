"""The measured models, written once in each file format that a side reads.

The random models have bfloat16 weights, so that their files in bfloat16 and float32 are equal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.gguf_files import rewrite_gguf, write_random
from llama_cpu.checkpoint.gguf import open_gguf
from llama_cpu.conversion.safetensors_writer import write_safetensors
from llama_cpu.loading.demo_model import fetch_demo_model
from llama_cpu.model.config import ModelConfig
from tests.support.checkpoints import LLAMA_7B

MODELS: dict[str, ModelConfig | None] = {
    "7B-width": replace(LLAMA_7B, n_layers=8, context_length=4096),
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
        context_length=4096,
    ),
    "demo": None,  # a real file
}


@dataclass(frozen=True)
class ModelFiles:
    """One model in a folder. Our engine reads ``source`` in every precision."""

    source: Path
    source_precision: str | None  # None: quantised
    config: ModelConfig
    folder: Path

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
            tensors = open_gguf(self.source).tensors
            dtypes = {name: tensor.dtype or torch.float32 for name, tensor in tensors.items()}

            def write(file: Path) -> None:
                with file.open("w+b", buffering=0) as raw:
                    write_safetensors(raw, tensors, dtypes, lambda count: None)

            write_whole(path, write)
        return path


def prepare(name: str, folder: Path) -> ModelFiles:
    """Return the files of a model, after writing or downloading its source if necessary."""
    config = MODELS[name]
    if config is None:
        source = fetch_demo_model()
    else:
        source = folder / f"{name}.gguf"
        if not source.exists():
            print(f"writing {source.name} ...", flush=True)
            write_whole(source, lambda file: write_random(file, config))
    precision = None if config is None else "bf16"
    return ModelFiles(source, precision, open_gguf(source).config, folder)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path, and rename the file to ``path`` once complete."""
    partial = path.with_suffix(".partial")
    write(partial)
    partial.replace(path)
