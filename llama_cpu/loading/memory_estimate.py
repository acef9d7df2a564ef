"""Will it fit? Answered before anything is loaded."""

from dataclasses import dataclass

from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.errors import UserError
from llama_cpu.model.config import ModelConfig
from llama_cpu.system.text import human_bytes
from llama_cpu.weights.linear import PREFILL_CHUNK, packs, widens
from llama_cpu.weights.precision import Precision

_PROGRAM_BYTES = 300 << 20  # the interpreter, PyTorch, the app


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model will take up."""

    weights: int
    kv_cache: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.working


def estimate_memory(
    config: ModelConfig, precision: Precision, max_seq_len: int, packed: bool
) -> MemoryEstimate:
    """``packed``: weights are in a layout of this processor's, and not as in the files."""
    weights = sum(precision.nbytes(shape) for shape in tensor_shapes(config).values())
    kv_cache = config.kv_cache_bytes(max_seq_len, precision.cache_dtype.itemsize)
    widest = max(config.hidden_dim * 3, config.dim * 8)
    scores = config.n_heads * max_seq_len
    rope = 8 * config.head_dim * max_seq_len
    working = _PROGRAM_BYTES + 4 * PREFILL_CHUNK * (widest + scores) + rope + 16 * config.vocab_size
    if widens(precision):
        heads = config.n_heads + 2 * config.n_kv_heads
        working += 4 * config.dim * max(2 * config.hidden_dim, heads * config.head_dim)
    if precision is Precision.INT8 and packed and config.tied_output:
        weights += precision.nbytes((config.vocab_size, config.dim))  # as a product and as a table
    return MemoryEstimate(weights, kv_cache, working)


def check_fits(
    config: ModelConfig, precision: Precision, max_seq_len: int, available: int, packed: bool
) -> None:
    """Raise UserError, saying what would help, if more than ``available`` bytes are needed."""
    needed = estimate_memory(config, precision, max_seq_len, packed)
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
    config: ModelConfig, precision: Precision, max_seq_len: int, available: int
) -> str:
    lengths = [max_seq_len]
    while lengths[-1] > 256:
        lengths.append(lengths[-1] // 2)
    smaller = [other for other in Precision if other.dtype.itemsize < precision.dtype.itemsize]
    # The precision costs less than a short context.
    options = [(other, max_seq_len) for other in smaller]
    options += [(other, length) for other in (precision, *smaller) for length in lengths]
    for other, length in options:
        if estimate_memory(config, other, length, packs(other)).total <= available:
            switches = [f"--{other.value}"] if other is not precision else []
            switches += [f"--max_seq_len {length}"] if length != max_seq_len else []
            return f"{' '.join(switches)} would make it fit (--force tries it all the same)."
    return "close other programs or take a smaller model (--force tries it all the same)."
