"""The shortest possible time of a task: weights read once, products at peak speed."""

import math
from dataclasses import dataclass

from benchmarks.gguf_files import stored_bytes
from benchmarks.models import FILE, ModelFiles
from benchmarks.workers.protocol import Task
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.model.config import ModelConfig
from llama_cpu.weights.formats import format_of

# Types in which the product of a precision may be computed: a matrix may be widened first, and
# quantized weights may be multiplied in any type.
_ANY_TYPE = ("int8", "bf16", "float32")
_AT_LEAST_AS_WIDE = {"float32": ("float32",), "bf16": ("bf16", "float32")}


@dataclass(frozen=True)
class Machine:
    """Speeds of this machine: bytes read per second, and operations per second by type."""

    read: float
    float32: float
    bf16: float
    int8: float

    def peak(self, precision: str) -> float:
        return max(getattr(self, kind) for kind in _AT_LEAST_AS_WIDE.get(precision, _ANY_TYPE))


def tensor_bytes(files: ModelFiles, precision: str) -> dict[str, int]:
    """Return the bytes of each tensor in memory in this precision."""
    if precision == FILE:
        return {name: stored_bytes(tensor) for name, tensor in files.tensors.items()}
    nbytes = format_of(precision).nbytes
    return {name: nbytes(shape) for name, shape in tensor_shapes(files.config).items()}


def weight_bytes(files: ModelFiles, precision: str) -> int:
    """Return the bytes of weights read for one token: all except an untied embedding."""
    return sum(
        size
        for name, size in tensor_bytes(files, precision).items()
        if files.config.tied_output or name != "tok_embeddings.weight"
    )


def bits_per_weight(files: ModelFiles, precision: str) -> float:
    """Return the bits that a weight of the matrices takes, with its share of the scales."""
    sizes = tensor_bytes(files, precision)
    shapes = tensor_shapes(files.config)
    matrices = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    return 8 * sum(sizes[name] for name in matrices) / sum(matrices.values())


def cache_bytes(config: ModelConfig, precision: str, context: int) -> int:
    """Return the bytes of the keys and values of ``context`` tokens."""
    return config.kv_cache_bytes(context, format_of(precision).cache_dtype)


def decode_bytes(files: ModelFiles, precision: str, context: int) -> int:
    """Return the bytes that one token reads after ``context`` tokens: weights and KV cache."""
    return weight_bytes(files, precision) + cache_bytes(files.config, precision, context)


def prefill_seconds(files: ModelFiles, precision: str, task: Task, machine: Machine) -> float:
    """Return the shortest possible time to prefill the tokens of a task that are not kept.

    Logits are computed for the last token only.
    """
    config = files.config
    tokens = task.prompt - task.keep
    in_layers = sum(
        math.prod(shape)
        for name, shape in tensor_shapes(config).items()
        if name.startswith("layers.") and len(shape) > 1
    )
    pairs = tokens * (task.keep + (tokens + 1) / 2)  # pairs of a query and a key it attends to
    attention = 2 * pairs * config.n_layers * config.n_heads * config.head_dim
    operations = 2 * (tokens * in_layers + attention + config.vocab_size * config.dim)
    read = decode_bytes(files, precision, task.keep)
    return max(operations / machine.peak(precision), read / machine.read)
