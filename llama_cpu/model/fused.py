"""A whole pass over a few tokens as one compiled function (``kernels/forward.py``).

The plain way, ``Transformer.forward``, calls PyTorch dozens of times a layer, which takes longer
than the products of a small model. A ``FusedPass`` computes the same from the same parts: it reads
them from the blocks and writes their addresses into the tables of the compiled function. A block
with a part that it does not know is left to the plain way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_cpu.kernels import compiler, layout
from llama_cpu.kernels.linear import KernelMatrix, fill_linear, prepared_bytes
from llama_cpu.kernels.memory import Table, aligned
from llama_cpu.kernels.team import team
from llama_cpu.model.attention import RotaryPositions
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.feed_forward import FeedForward
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.norms import RMSNorm
from llama_cpu.model.transformer import Block, Layer, Transformer
from llama_cpu.weights.kernel_linear import KernelLinear, require_right
from llama_cpu.weights.linear import BiasedLinear, Linear, SeparateLinears

_MOST_MATRICES = 3  # of a product with one input
ATTENTION_ARGUMENTS = 14
CACHES = {
    torch.float32: ("attention.attend_f32", layout.F32_CACHE),
    torch.bfloat16: ("attention.attend_bf16", layout.BF16_CACHE),
    torch.int8: ("attention.attend_i8", layout.I8_CACHE),
}


@dataclass(frozen=True)
class _Product:
    """The matrices of a product, one below the other, with their biases."""

    parts: Sequence[tuple[KernelMatrix, Tensor | None]]
    few_rows: int  # rows up to which the kernel is the fastest way
    kernels: Sequence[KernelLinear]


@dataclass(frozen=True)
class _Parts:
    """The parts of a block."""

    block: Block
    wqkv: _Product
    wo: _Product
    w13: _Product
    w2: _Product


def fuse(model: Transformer, cache: KVCache, threads: int) -> "FusedPass | None":
    """Return the compiled pass of a model and a cache; None if a part of them has no kernel.

    Raises KernelError if a kernel cannot be compiled here or multiplies wrong.
    """
    config = model.config
    if config.head_dim % 8 or cache.dtype not in CACHES:
        return None
    if not isinstance(model.positions, RotaryPositions) or not isinstance(model.norm, RMSNorm):
        return None
    output = _product(model.output)
    blocks = [_parts(block) for block in model.blocks]
    if output is None or any(block is None for block in blocks):
        return None
    known = [block for block in blocks if block is not None]
    products = [output]
    for block in known:
        products += [block.wqkv, block.wo, block.w13, block.w2]
    require_right([kernel for product in products for kernel in product.kernels])
    return FusedPass(config, cache, known, model.norm, output, model.positions, threads)


def _parts(block: Layer) -> _Parts | None:
    if not isinstance(block, Block) or not isinstance(block.feed_forward, FeedForward):
        return None
    norms = (block.attention_norm, block.ffn_norm)
    attention, feed_forward = block.attention, block.feed_forward
    linears = (attention.wqkv, attention.wo, feed_forward.w13, feed_forward.w2)
    products = [_product(linear) for linear in linears]
    if not all(isinstance(norm, RMSNorm) for norm in norms):
        return None
    known = [product for product in products if product is not None]
    return _Parts(block, *known) if len(known) == len(products) else None


def _product(linear: Linear) -> _Product | None:
    """Return the matrices of a product; None if it is not a kernel's."""
    bias = None
    if isinstance(linear, BiasedLinear):
        bias, linear = linear.bias, linear.linear
    linears = linear.linears if isinstance(linear, SeparateLinears) else [linear]
    kernels = [each for each in linears if isinstance(each, KernelLinear)]
    if len(kernels) < len(linears) or len(kernels) > _MOST_MATRICES:
        return None
    matrices = [kernel.matrix for kernel in kernels]
    heights = [matrix.out for matrix in matrices]
    biases = [None] * len(matrices) if bias is None else torch.split(bias, heights)
    few_rows = min(kernel.few_rows for kernel in kernels)
    return _Product(list(zip(matrices, biases, strict=True)), few_rows, kernels)


class FusedPass:
    """The compiled pass of one model with one KV cache, for up to ``few_rows`` tokens."""

    def __init__(
        self,
        config: ModelConfig,
        cache: KVCache,
        blocks: Sequence[_Parts],
        norm: RMSNorm,
        output: _Product,
        positions: RotaryPositions,
        threads: int,
    ) -> None:
        products = [output]
        for block in blocks:
            products += [block.wqkv, block.wo, block.w13, block.w2]
        self.few_rows = min(product.few_rows for product in products)
        self._cache = cache
        self.stages = 13 * len(blocks) + 3  # forward.stage_count
        self._team = team(threads)
        self._angles = positions.rope.pairs()
        self._eps = torch.tensor([norm.eps])
        self._memory: list[Tensor] = []
        # Everything whose address is in a table must live as long as this object.
        self._kept = [blocks, norm, output]
        self._layers = Table(layout.LAYER_FIELDS * len(blocks))
        for number, block in enumerate(blocks):
            self._fill_layer(number, block, config, threads)
        self.table = Table(layout.MODEL_FIELDS)
        fill_linear(self.table, layout.OUTPUT, output.parts, threads)
        widest = max(matrix.columns for product in products for matrix, _ in product.parts)
        self._fill_model(config, norm, widest, threads)

    def takes(self, seq: int, cache: KVCache) -> bool:
        """Return whether this pass can process ``seq`` tokens with this cache."""
        return seq <= self.few_rows and cache is self._cache

    def __call__(self, x: Tensor, position: int, logits: Tensor | None) -> None:
        """Process the tokens that follow ``position`` others (``transformer.FewTokens``)."""
        self._team.run(self, position, x, logits)

    def _new_memory(self, size: int) -> int:
        """Allocate memory for as long as this object lives, and return its address."""
        self._memory.append(aligned(size))
        return self._memory[-1].data_ptr()

    def _fill_model(self, config: ModelConfig, norm: RMSNorm, widest: int, threads: int) -> None:
        rows, heads = self.few_rows, config.n_heads + 2 * config.n_kv_heads
        attend, kind = CACHES[self._cache.dtype]
        # Prepared inputs, or the queries of a group, the scores of a block of keys and one key.
        private = (
            (rows + 1) * prepared_bytes(max(widest, config.q_dim)) + 4096 + 8 * config.head_dim
        )
        result_bytes = 4 * config.head_dim + 32  # attention.result_bytes
        results = (config.n_heads * rows + config.n_kv_heads) * layout.MOST_PARTS
        values = {
            layout.LAYERS: self._layers.address,
            layout.N_LAYERS: config.n_layers,
            layout.DIM: config.dim,
            layout.N_HEADS: config.n_heads,
            layout.N_KV_HEADS: config.n_kv_heads,
            layout.HEAD_DIM: config.head_dim,
            layout.HIDDEN_DIM: config.hidden_dim,
            layout.EPS: self._eps.data_ptr(),
            layout.INTERLEAVED: config.rope_interleaved,
            layout.ANGLES: self._angles.data_ptr(),
            layout.CACHE_KIND: kind,
            layout.MAX_SEQ_LEN: self._cache.max_seq_len,
            layout.ATTEND: compiler.kernel(attend, ATTENTION_ARGUMENTS).address,
            layout.NORM: norm.unscaled.data_ptr(),
            layout.THREADS: threads,
            layout.QKV: self._new_memory(4 * rows * heads * config.head_dim),
            layout.RESULTS: self._new_memory(results * result_bytes),
            layout.GATE_UP: self._new_memory(8 * rows * config.hidden_dim),
            layout.PRIVATE: self._new_memory(threads * private),
            layout.PRIVATE_BYTES: private,
        }
        for field, value in values.items():
            self.table[field] = value

    def _fill_layer(self, number: int, parts: _Parts, config: ModelConfig, threads: int) -> None:
        first, block = number * layout.LAYER_FIELDS, parts.block
        for start, product in (
            (layout.WQKV, parts.wqkv),
            (layout.WO, parts.wo),
            (layout.W13, parts.w13),
            (layout.W2, parts.w2),
        ):
            fill_linear(self._layers, first + start, product.parts, threads)
        attention, scales = block.attention, self._cache.scales
        assert isinstance(block.attention_norm, RMSNorm) and isinstance(block.ffn_norm, RMSNorm)
        values = {
            layout.ATTENTION_NORM: block.attention_norm.unscaled.data_ptr(),
            layout.FFN_NORM: block.ffn_norm.unscaled.data_ptr(),
            layout.ROTARY: attention.rotary,
            layout.WINDOW: (config.sliding_window or 0) if attention.sliding else 0,
            layout.KEYS: self._cache.memory[number, 0].data_ptr(),
            layout.VALUES: self._cache.memory[number, 1].data_ptr(),
        }
        if attention.qk_norm is not None:
            values[layout.Q_NORM] = attention.qk_norm.q_weight.data_ptr()
            values[layout.K_NORM] = attention.qk_norm.k_weight.data_ptr()
        if scales is not None:
            values[layout.KEY_SCALES] = scales[number, 0].data_ptr()
            values[layout.VALUE_SCALES] = scales[number, 1].data_ptr()
        for field, value in values.items():
            self._layers[first + field] = value
