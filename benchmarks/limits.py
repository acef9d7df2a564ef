"""How long a task would take at the least: everything read once, every product at its peak."""

import math
from dataclasses import dataclass

from benchmarks.workers.protocol import Task
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.model.config import ModelConfig
from llama_cpu.weights.formats import format_of

# A matrix may be widened before its product, where that is faster.
_AT_LEAST_AS_WIDE = {
    "float32": ("float32",),
    "bf16": ("bf16", "float32"),
    "int8": ("int8", "bf16", "float32"),
}


@dataclass(frozen=True)
class Machine:
    """Bytes and operations a second."""

    read: float
    float32: float
    bf16: float
    int8: float

    def peak(self, precision: str) -> float:
        return max(getattr(self, kind) for kind in _AT_LEAST_AS_WIDE[precision])


def weight_bytes(config: ModelConfig, precision: str) -> int:
    """What one token reads of the weights: all but the embedding, of which it is one row."""
    return sum(
        format_of(precision).nbytes(shape)
        for name, shape in tensor_shapes(config).items()
        if config.tied_output or name != "tok_embeddings.weight"
    )


def cache_bytes(config: ModelConfig, precision: str, context: int) -> int:
    """Keys and values of so many tokens."""
    return config.kv_cache_bytes(context, format_of(precision).cache_dtype.itemsize)


def decode_bytes(config: ModelConfig, precision: str, context: int) -> int:
    """What one token after so many reads."""
    return weight_bytes(config, precision) + cache_bytes(config, precision, context)


def prefill_seconds(config: ModelConfig, precision: str, task: Task, machine: Machine) -> float:
    """The prompt's tokens after those that are kept; logits of the last one alone."""
    tokens = task.prompt - task.keep
    in_layers = sum(
        math.prod(shape)
        for name, shape in tensor_shapes(config).items()
        if name.startswith("layers.") and len(shape) > 1
    )
    pairs = tokens * (task.keep + (tokens + 1) / 2)  # of a query and a key that it sees
    attention = 2 * pairs * config.n_layers * config.n_heads * config.head_dim
    operations = 2 * (tokens * in_layers + attention + config.vocab_size * config.dim)
    read = weight_bytes(config, precision) + cache_bytes(config, precision, task.keep)
    return max(operations / machine.peak(precision), read / machine.read)
