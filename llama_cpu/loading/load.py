"""From files to a model that is ready to answer: plan, check, then load."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag

import torch

from llama_cpu.checkpoint import Checkpoint, holds_checkpoint, open_checkpoint
from llama_cpu.errors import UserError
from llama_cpu.generation.speculative_decoding import (
    Drafter,
    LookupDrafter,
    ModelDrafter,
    vocabularies_differ,
)
from llama_cpu.loading.memory_estimate import check_fits, estimate_memory
from llama_cpu.loading.weight_reader import Progress, WeightReader, can_map
from llama_cpu.model.architectures import architecture_of
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.system.memory import available_memory
from llama_cpu.system.paths import model_folder, tokenizer_folder
from llama_cpu.system.process import keep_freed_memory
from llama_cpu.system.processor import physical_cores
from llama_cpu.system.safe_reading import read_json
from llama_cpu.tokenization import Tokenizer, load_tokenizer
from llama_cpu.weights.linear import packs, rows_at_once
from llama_cpu.weights.precision import Precision

_LONGEST_CONTEXT = 1 << 20  # where the checkpoint names no limit
_LONGEST_DRAFT_OF_MODEL = 4  # tokens; each costs a pass of the smaller model
DEFAULT_CONTEXT = 4096  # tokens, where the model was trained for more


@dataclass(frozen=True)
class LoadPlan:
    """Everything that is decided, and can go wrong, before the weights are read."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    precision: Precision
    max_seq_len: int
    threads: int
    is_demo: bool
    generation_config: dict  # of generation_config.json, {} where there is none
    mmap: bool  # multiply weights where they lie in the files; else all are copied
    lookup: bool = False  # propose what followed the same tokens before
    draft: "LoadPlan | None" = None  # a smaller model that proposes tokens instead

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def packed(self) -> bool:
        return packs(self.precision) and not self.mmap

    @property
    def source(self) -> Path:
        return self.checkpoint.path


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, with its cache."""

    plan: LoadPlan
    model: Transformer
    cache: KVCache
    weights_bytes: int
    mapped_bytes: int  # of those, read in place from the files
    end_ids: frozenset[int]
    new_drafter: Callable[[], Drafter] | None = None
    longest_draft: int = 0

    @property
    def tokenizer(self) -> Tokenizer:
        return self.plan.tokenizer


def plan_loading(
    ckpt_dir: Path | None = None,
    tokenizer_path: Path | None = None,
    *,
    precision: Precision = Precision.FLOAT32,
    max_seq_len: int | None = None,
    threads: int | None = None,
    force: bool = False,
    mmap: bool | None = None,
    lookup: bool | None = None,
    draft_ckpt_dir: Path | None = None,
) -> LoadPlan:
    """Open the checkpoint and its tokenizer, and make sure that they fit into memory.

    ``ckpt_dir`` None: the folder model/, or the demo model where that is empty; it is fetched if
    need be. ``mmap``: where the files have weights in the wanted type; None: unless the processor
    has a better layout for them. ``lookup`` None: where several rows cost little more than one.
    Raises UserError for anything that is wrong.
    """
    is_demo = ckpt_dir is None and not holds_checkpoint(model_folder())
    if is_demo:
        from llama_cpu.loading.demo_model import fetch_demo_model

        ckpt_dir = fetch_demo_model()
    checkpoint = open_checkpoint(ckpt_dir or model_folder())
    tokenizer = load_tokenizer(checkpoint, tokenizer_path, tokenizer_folder())
    checkpoint = replace(checkpoint, metadata={})  # a vocabulary's lists are not needed again
    context = _context(max_seq_len, checkpoint)
    available = available_memory()
    config_file = checkpoint.path / "generation_config.json"
    plan = LoadPlan(
        checkpoint,
        tokenizer,
        precision,
        context,
        threads or physical_cores(),
        is_demo,
        read_json(config_file) if config_file.exists() else {},
        (not packs(precision) if mmap is None else mmap) and can_map(checkpoint, precision),
    )
    if not force:
        check_fits(checkpoint.config, precision, context, available, plan.packed)
    several_rows = rows_at_once(precision, plan.packed) > 1
    plan = replace(plan, lookup=several_rows if lookup is None else lookup)
    if draft_ckpt_dir is None:
        return plan
    draft = _plan_draft(plan, draft_ckpt_dir, tokenizer_path, mmap)
    if not force:
        left = available - estimate_memory(checkpoint.config, precision, context, plan.packed).total
        check_fits(draft.checkpoint.config, precision, draft.max_seq_len, left, draft.packed)
    return replace(plan, draft=draft)


def _plan_draft(
    plan: LoadPlan, ckpt_dir: Path, tokenizer_path: Path | None, mmap: bool | None
) -> LoadPlan:
    """The plan of a model that proposes tokens to that of ``plan``, whose vocabulary it shares."""
    draft = plan_loading(
        ckpt_dir,
        tokenizer_path,
        precision=plan.precision,
        threads=plan.threads,
        force=True,
        mmap=mmap,
    )
    if vocabularies_differ(plan.tokenizer, draft.tokenizer):
        raise UserError(
            f"{ckpt_dir}: this draft model has another vocabulary than {plan.name}; take a "
            "smaller model of the same family for --draft_ckpt_dir."
        )
    return replace(draft, max_seq_len=min(plan.max_seq_len, draft.checkpoint.config.context_length))


def plan_from_arguments(args: argparse.Namespace) -> LoadPlan:
    """plan_loading with the options of the command line."""
    return plan_loading(
        args.ckpt_dir,
        args.tokenizer_path,
        precision=Precision(args.precision),
        max_seq_len=args.max_seq_len,
        threads=args.threads,
        force=args.force,
        mmap=args.mmap,
        lookup=args.lookup,
        draft_ckpt_dir=args.draft_ckpt_dir,
    )


def _context(asked: int | None, checkpoint: Checkpoint) -> int:
    trained = checkpoint.config.context_length
    if asked is None:
        return min(trained, DEFAULT_CONTEXT)
    longest = _LONGEST_CONTEXT if checkpoint.config.context_is_guess else trained
    if not 16 <= asked <= longest:
        raise UserError(
            f"--max_seq_len is {asked}, but {checkpoint.name} can be run with 16 to {longest} "
            "tokens."
        )
    return asked


def load(plan: LoadPlan, on_progress: Progress, stop: Flag) -> LoadedModel:
    """Map every matrix whose file has the wanted type, if that is the plan; convert the others.

    ``on_progress(done, total, name)`` gets bytes of the weights in their final type. The
    checkpoint is used up: its tensors are let go one by one, so that files read whole do not
    stay in memory. Raises Cancelled once ``stop`` is set, UserError where a file is damaged.
    """
    torch.set_num_threads(plan.threads)
    config = plan.checkpoint.config
    cache = _kv_cache(plan)
    total = estimate_memory(config, plan.precision, plan.max_seq_len, plan.packed).weights
    reader = WeightReader(
        plan.checkpoint, plan.precision, plan.mmap, plan.packed, total, on_progress, stop
    )
    architecture = architecture_of(config)
    model = architecture.build_model(config, reader, plan.max_seq_len, architecture.build_block)
    reader.finish()
    keep_freed_memory()
    end_ids = plan.tokenizer.end_ids() | _configured_end_ids(plan)
    loaded = LoadedModel(plan, model, cache, reader.done, reader.mapped, end_ids)
    if plan.draft is not None:
        return _with_draft(loaded, load(plan.draft, on_progress, stop))
    if plan.lookup:
        longest = max(1, rows_at_once(plan.precision, plan.packed) - 1)
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
        return KVCache(plan.checkpoint.config, plan.max_seq_len, plan.precision.cache_dtype)
    except (OSError, OverflowError) as error:  # only with --force; else the forecast has said so
        raise UserError(
            f"The system has no memory for a KV cache of {plan.max_seq_len} tokens; choose a "
            "smaller --max_seq_len."
        ) from error


def _configured_end_ids(plan: LoadPlan) -> frozenset[int]:
    """``eos_token_id`` of generation_config.json: one id or a list of them."""
    ids = plan.generation_config.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return frozenset(index for index in ids if isinstance(index, int))
