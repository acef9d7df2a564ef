"""Will it fit? Answered before anything is loaded."""

import math
from dataclasses import dataclass

import torch

from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.config import ModelConfig
from llama_cpu.errors import UserError
from llama_cpu.generation import PREFILL_CHUNK
from llama_cpu.text import human_bytes
from llama_cpu.transformer.linear import bf16_in_hardware

_PROGRAM_BYTES = 300 << 20  # the interpreter, PyTorch, the app


@dataclass(frozen=True)
class Forecast:
    """Bytes that a model will take up."""

    weights: int
    kv_cache: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.working


def final_dtype(shape: tuple[int, ...], precision: torch.dtype) -> torch.dtype:
    """The type in which a tensor is kept: norms (one dimension) are always float32."""
    return precision if len(shape) > 1 else torch.float32


def forecast(config: ModelConfig, precision: torch.dtype, max_seq_len: int) -> Forecast:
    weights = 0
    for shape in tensor_shapes(config).values():
        weights += math.prod(shape) * final_dtype(shape, precision).itemsize
    widest = max(config.hidden_dim * 3, config.dim * 8)
    scores = config.n_heads * max_seq_len
    rope = 8 * config.head_dim * max_seq_len
    working = _PROGRAM_BYTES + 4 * PREFILL_CHUNK * (widest + scores) + rope + 16 * config.vocab_size
    if precision == torch.bfloat16 and not bf16_in_hardware():
        heads = config.n_heads + 2 * config.n_kv_heads
        working += 4 * config.dim * max(2 * config.hidden_dim, heads * config.head_dim)
    return Forecast(weights, config.kv_cache_bytes(max_seq_len, precision.itemsize), working)


def check_fits(
    config: ModelConfig, precision: torch.dtype, max_seq_len: int, available: int
) -> None:
    """Raise UserError, saying what would help, if more than ``available`` bytes are needed."""
    needed = forecast(config, precision, max_seq_len)
    if needed.total <= available:
        return
    raise UserError(
        f"This model needs {human_bytes(needed.total)} of memory (weights "
        f"{human_bytes(needed.weights)}, KV cache {human_bytes(needed.kv_cache)}, working space "
        f"{human_bytes(needed.working)}) but {human_bytes(available)} are free, which is "
        f"{human_bytes(needed.total - available)} too little; "
        + _what_would_help(config, precision, max_seq_len, available)
    )


def _what_would_help(
    config: ModelConfig, precision: torch.dtype, max_seq_len: int, available: int
) -> str:
    lengths = [max_seq_len]
    while lengths[-1] > 256:
        lengths.append(lengths[-1] // 2)
    options = [(precision, length) for length in lengths]
    options += [(torch.bfloat16, length) for length in lengths]
    if precision == torch.float32:  # the precision costs less than a short context
        options = [(torch.bfloat16, max_seq_len), *options]
    for other, length in options:
        if forecast(config, other, length).total <= available:
            switches = ["--bf16"] if other != precision else []
            switches += [f"--max_seq_len {length}"] if length != max_seq_len else []
            return f"{' '.join(switches)} would make it fit (--force tries it all the same)."
    return "close other programs or take a smaller model (--force tries it all the same)."
