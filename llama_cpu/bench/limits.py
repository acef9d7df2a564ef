"""The shortest possible time of a pass: weights read once, products at the machine's speed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llama_cpu.bench.machine_speed import MachineSpeed
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.model.config import ModelConfig
from llama_cpu.weights.weight_format import WeightFormat


def tensor_bytes(
    config: ModelConfig, precision: WeightFormat, tensors: Mapping[str, Any]
) -> dict[str, int]:
    """Return the bytes of each tensor in memory in this format.

    ``tensors``: those of the checkpoint, by name. The format "file" keeps them as they are stored.
    """
    return {
        name: precision.nbytes(shape, name, tensors.get(name))
        for name, shape in tensor_shapes(config).items()
    }


@dataclass(frozen=True)
class Work:
    """What a model has to read and to compute; ``tensor_bytes`` are those of the function."""

    config: ModelConfig
    precision: str  # label of the weight format
    tensor_bytes: Mapping[str, int]
    cache_dtype: torch.dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that are read for one token: all except an untied embedding."""
        return sum(
            size
            for name, size in self.tensor_bytes.items()
            if self.config.tied_output or name != "tok_embeddings.weight"
        )

    def decode_bytes(self, context: int) -> int:
        """Return the bytes that one token reads after ``context`` tokens: weights and KV cache."""
        return self.weight_bytes + self.config.kv_cache_bytes(context, self.cache_dtype)

    def prefill_seconds(self, tokens: int, machine: MachineSpeed, kept: int = 0) -> float:
        """Return the shortest possible time to read ``tokens`` tokens after ``kept`` others.

        Logits are computed for the last token only.
        """
        config = self.config
        in_layers = sum(
            math.prod(shape)
            for name, shape in tensor_shapes(config).items()
            if name.startswith("layers.") and len(shape) > 1
        )
        pairs = tokens * (kept + (tokens + 1) / 2)  # pairs of a query and a key it attends to
        attention = 2 * pairs * config.n_layers * config.n_heads * config.head_dim
        operations = 2 * (tokens * in_layers + attention + config.vocab_size * config.dim)
        computing = operations / machine.peak(self.precision)
        return max(computing, self.decode_bytes(kept) / machine.read)
