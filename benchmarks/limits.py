"""The shortest possible time of a task: weights read once, products at peak speed."""

import math
from dataclasses import dataclass

from benchmarks.workers.protocol import Task
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.model.config import ModelConfig
from llama_cpu.weights.formats import format_of

# Types in which the product of a precision may be computed: a matrix may be widened first.
_AT_LEAST_AS_WIDE = {
    "float32": ("float32",),
    "bf16": ("bf16", "float32"),
    "int8": ("int8", "bf16", "float32"),
}


@dataclass(frozen=True)
class Machine:
    """Speeds of this machine: bytes read per second, and operations per second by type."""

    read: float
    float32: float
    bf16: float
    int8: float

    def peak(self, precision: str) -> float:
        return max(getattr(self, kind) for kind in _AT_LEAST_AS_WIDE[precision])


def weight_bytes(config: ModelConfig, precision: str) -> int:
    """Return the bytes of weights read for one token: all except an untied embedding."""
    return sum(
        format_of(precision).nbytes(shape)
        for name, shape in tensor_shapes(config).items()
        if config.tied_output or name != "tok_embeddings.weight"
    )


def cache_bytes(config: ModelConfig, precision: str, context: int) -> int:
    """Return the bytes of the keys and values of ``context`` tokens."""
    return config.kv_cache_bytes(context, format_of(precision).cache_dtype)


def decode_bytes(config: ModelConfig, precision: str, context: int) -> int:
    """Return the bytes that one token reads after ``context`` tokens: weights and KV cache."""
    return weight_bytes(config, precision) + cache_bytes(config, precision, context)


def prefill_seconds(config: ModelConfig, precision: str, task: Task, machine: Machine) -> float:
    """Return the shortest possible time to prefill the tokens of a task that are not kept.

    Logits are computed for the last token only.
    """
    tokens = task.prompt - task.keep
    in_layers = sum(
        math.prod(shape)
        for name, shape in tensor_shapes(config).items()
        if name.startswith("layers.") and len(shape) > 1
    )
    pairs = tokens * (task.keep + (tokens + 1) / 2)  # pairs of a query and a key it attends to
    attention = 2 * pairs * config.n_layers * config.n_heads * config.head_dim
    operations = 2 * (tokens * in_layers + attention + config.vocab_size * config.dim)
    read = weight_bytes(config, precision) + cache_bytes(config, precision, task.keep)
    return max(operations / machine.peak(precision), read / machine.read)
