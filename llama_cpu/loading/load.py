"""Loading of a model according to a plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event as Flag

import torch

from llama_cpu.errors import UserError
from llama_cpu.generation.speculative_decoding import Drafter, LookupDrafter, ModelDrafter
from llama_cpu.kernels.compiler import KernelError
from llama_cpu.loading.kernels import Compilation, needed_kernels
from llama_cpu.loading.plan import LoadPlan, memory_of, require_kernels
from llama_cpu.loading.weight_reader import Progress, WeightReader
from llama_cpu.model.architectures import architecture_of
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.fused import fuse
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Layer, Transformer, WeightSource
from llama_cpu.system.process import keep_freed_memory
from llama_cpu.tokenization import Tokenizer

_LONGEST_DRAFT_OF_MODEL = 4  # tokens; each of them costs a pass of the draft model


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, with its KV cache."""

    plan: LoadPlan
    model: Transformer
    cache: KVCache
    weights_bytes: int
    mapped_bytes: int  # the part of ``weights_bytes`` that is memory-mapped
    end_ids: frozenset[int]
    new_drafter: Callable[[], Drafter] | None = None
    longest_draft: int = 0

    @property
    def tokenizer(self) -> Tokenizer:
        return self.plan.tokenizer


def load(plan: LoadPlan, on_progress: Progress, stop: Flag) -> LoadedModel:
    """Map the matrices that the plan multiplies in place, and convert or pack the others.

    ``on_progress(done, total, name)`` is called with bytes of the weights in their final format.
    The tensors of the checkpoint are released layer by layer, so that files that cannot be mapped
    do not stay in memory. Kernels are compiled meanwhile; while they are
    waited for, ``name`` says so. Raises Cancelled once ``stop`` is set, UserError if a file is
    damaged.
    """
    torch.set_num_threads(plan.threads)
    compilation = Compilation(needed_kernels(plan))
    config = plan.checkpoint.config
    cache = _kv_cache(plan)
    total = memory_of(plan).weights
    reader = WeightReader(
        plan.checkpoint, plan.precision, plan.products, plan.mmap, total, on_progress, stop
    )
    architecture = architecture_of(config)

    def build_block(config: ModelConfig, layer: int, weights: WeightSource) -> Layer:
        block = architecture.build_block(config, layer, weights)
        reader.release(f"layers.{layer}.")
        return block

    model = architecture.build_model(config, reader, plan.max_seq_len, build_block)
    reader.finish()
    try:
        compilation.wait(lambda what: on_progress(total, total, what), stop)
        model.few_tokens = fuse(model, cache, plan.threads)
    except KernelError:
        if not any(product.works() for product in plan.precision.operations.products):
            raise
        require_kernels(plan.precision)  # a note: products work without kernels
    keep_freed_memory()
    end_ids = plan.tokenizer.end_ids() | _configured_end_ids(plan)
    loaded = LoadedModel(plan, model, cache, reader.done, reader.mapped, end_ids)
    if plan.draft is not None:
        return _with_draft(loaded, load(plan.draft, on_progress, stop))
    if plan.lookup:
        longest = max(1, plan.products.rows_at_once - 1)
        return replace(loaded, new_drafter=LookupDrafter, longest_draft=longest)
    return loaded


def _with_draft(loaded: LoadedModel, draft: LoadedModel) -> LoadedModel:
    drafter = ModelDrafter(draft.model, draft.cache)
    return replace(
        loaded,
        weights_bytes=loaded.weights_bytes + draft.weights_bytes,
        mapped_bytes=loaded.mapped_bytes + draft.mapped_bytes,
        new_drafter=lambda: drafter,
        longest_draft=_LONGEST_DRAFT_OF_MODEL,
    )


def _kv_cache(plan: LoadPlan) -> KVCache:
    try:
        return KVCache(plan.checkpoint.config, plan.max_seq_len, plan.cache_dtype)
    except (OSError, OverflowError) as error:  # only with --force; check_fits refuses it otherwise
        raise UserError(
            f"There is not enough memory for a KV cache of {plan.max_seq_len} tokens; choose a "
            "smaller --max_seq_len."
        ) from error


def _configured_end_ids(plan: LoadPlan) -> frozenset[int]:
    """Return ``eos_token_id`` of generation_config.json, which is one id or a list."""
    ids = plan.generation_config.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return frozenset(index for index in ids if isinstance(index, int))
