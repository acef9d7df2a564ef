"""Estimate of the memory that a model needs, before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.errors import UserError
from llama_cpu.model.config import ModelConfig
from llama_cpu.system.memory import memory_report
from llama_cpu.system.text import human_bytes
from llama_cpu.weights.choice import preferred
from llama_cpu.weights.formats import smaller_than
from llama_cpu.weights.linear import PREFILL_CHUNK
from llama_cpu.weights.operations import ProductChoice, StoredMatrix
from llama_cpu.weights.weight_format import WeightFormat

Tensors = Mapping[str, StoredMatrix]
PROGRAM_BYTES = 300 << 20  # the interpreter, PyTorch, the app


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory that a model is expected to need, in bytes."""

    weights: int
    kv_cache: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.working


def program_in_memory() -> int:
    """Return how many of PROGRAM_BYTES this process has already allocated.

    Pages of mapped files, such as PyTorch's libraries, do not count: the system can drop them, so
    they are part of the available memory. What exceeds PROGRAM_BYTES belongs to a loaded model.
    """
    return min(PROGRAM_BYTES, memory_report().anonymous)


def cache_dtype(precision: WeightFormat, kv_int8: bool) -> torch.dtype:
    """Return the type of the KV cache. ``kv_int8``: whether the user wants it in int8."""
    return torch.int8 if kv_int8 else precision.cache_dtype


def widest_product(config: ModelConfig) -> tuple[int, int]:
    """Return the shape [out, in] of a layer's largest stacked product: w1, w3 or wq, wk, wv."""
    heads = config.n_heads + 2 * config.n_kv_heads
    return max(2 * config.hidden_dim, heads * config.head_dim), config.dim


def estimate_memory(
    config: ModelConfig,
    precision: WeightFormat,
    max_seq_len: int,
    products: ProductChoice[Any] | None = None,
    *,
    present: int = 0,
    kv_int8: bool = False,
    tensors: Tensors | None = None,
) -> MemoryEstimate:
    """Estimate the memory of a model and of the program that runs it.

    ``products`` None: those preferred without a measurement. ``present``: bytes of the program that
    are already allocated, so that the estimate can be compared with the memory that is available
    now. ``kv_int8``: whether the KV cache is in int8. ``tensors``: those of the checkpoint, by
    name; weights that are kept as they are in the file cannot be counted without them.
    """
    stored = tensors or {}
    operations = precision.operations
    products = products or preferred(operations)
    weights = sum(
        precision.nbytes(shape, name, stored.get(name))
        for name, shape in tensor_shapes(config).items()
    )
    kv_cache = config.kv_cache_bytes(max_seq_len, cache_dtype(precision, kv_int8))
    widest = max(config.hidden_dim * 3, config.dim * 8)
    scores = config.n_heads * max_seq_len
    rope = 8 * config.head_dim * max_seq_len
    working = max(0, PROGRAM_BYTES - present)
    working += 4 * PREFILL_CHUNK * (widest + scores) + rope + 16 * config.vocab_size
    if products.product.widens:
        rows, columns = widest_product(config)
        working += 4 * rows * columns
    if kv_int8:  # attention reads a layer's keys and values in float32
        working += 4 * 2 * config.kv_dim * max_seq_len
    output = operations.output_product(products, config.tied_output)
    if config.tied_output and not output.in_place:
        # A packed output matrix is a second copy, beside the embedding table.
        shape = (config.vocab_size, config.dim)
        weights += precision.nbytes(shape, "tok_embeddings.weight")
    return MemoryEstimate(weights, kv_cache, working)


def check_fits(
    config: ModelConfig,
    precision: WeightFormat,
    max_seq_len: int,
    available: int,
    products: ProductChoice[Any] | None = None,
    *,
    present: int = 0,
    kv_int8: bool = False,
    tensors: Tensors | None = None,
) -> None:
    """Raise UserError, with a suggestion, if the model needs more than ``available`` bytes.

    The other arguments are those of ``estimate_memory``.
    """
    needed = estimate_memory(
        config,
        precision,
        max_seq_len,
        products,
        present=present,
        kv_int8=kv_int8,
        tensors=tensors,
    )
    if needed.total <= available:
        return
    raise UserError(
        f"This model needs {human_bytes(needed.total)} of memory (weights "
        f"{human_bytes(needed.weights)}, KV cache {human_bytes(needed.kv_cache)}, working space "
        f"{human_bytes(needed.working)}) but {human_bytes(available)} are free, which is "
        f"{human_bytes(needed.total - available)} too little; "
        + _what_would_help(config, precision, max_seq_len, available, present, kv_int8, tensors)
    )


def _what_would_help(
    config: ModelConfig,
    precision: WeightFormat,
    max_seq_len: int,
    available: int,
    present: int,
    kv_int8: bool,
    tensors: Tensors | None,
) -> str:
    lengths = [max_seq_len]
    while lengths[-1] > 256:
        lengths.append(lengths[-1] // 2)
    smaller = smaller_than(precision)
    # Smaller weight formats come first, then a smaller KV cache: they restrict the user less than a
    # short context.
    options = [(other, kv_int8, max_seq_len) for other in smaller]
    options += [(other, True, max_seq_len) for other in (precision, *smaller)]
    options += [
        (other, in_int8, length)
        for in_int8 in (kv_int8, True)
        for other in (precision, *smaller)
        for length in lengths
    ]
    for other, in_int8, length in options:
        needed = estimate_memory(
            config, other, length, present=present, kv_int8=in_int8, tensors=tensors
        )
        if needed.total <= available:
            switches = [other.switch] if other is not precision else []
            switches += ["--kv_int8"] if in_int8 != kv_int8 else []
            switches += [f"--max_seq_len {length}"] if length != max_seq_len else []
            return f"{' '.join(switches)} would make it fit (--force tries it all the same)."
    return "close other programs or take a smaller model (--force tries it all the same)."
