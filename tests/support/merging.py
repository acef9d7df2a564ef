"""Running merge_weights.py, and an independent way of joining shards."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from llama_cpu.cli import merge_main
from llama_cpu.config import ModelConfig
from tests.support.checkpoints import random_weights, tiny_config, write_meta

ROOT = Path(__file__).parent.parent.parent


def merge(*words: object) -> int:
    """Exit code of merge_weights.py, in this process; the tokenizer stays out of the checkout."""
    options = [str(word) for word in words]
    if "--tokenizer_dir" not in options:
        options += ["--tokenizer_dir", str(options[options.index("--output_dir") + 1])]
    return merge_main(options)


def merge_process(*words: object, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "merge_weights.py"), *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)


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
