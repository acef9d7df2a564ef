"""From files to a model that is ready to answer: plan, check, then load."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import torch
from torch import Tensor

from llama_cpu.checkpoint import Checkpoint, holds_checkpoint, open_checkpoint
from llama_cpu.checkpoint.int8 import Int8Tensor
from llama_cpu.checkpoint.stored import FileTensor, StoredTensor, in_row_chunks
from llama_cpu.drafting import Drafter, LookupDrafter, ModelDrafter, vocabularies_differ
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.files import read_json
from llama_cpu.locations import model_folder, tokenizer_folder
from llama_cpu.machine import available_memory, keep_freed_memory, physical_cores
from llama_cpu.memory_forecast import check_fits, forecast
from llama_cpu.precision import Precision
from llama_cpu.quantization import Int8Weight, quantize_rows
from llama_cpu.tokenization import Tokenizer, load_tokenizer
from llama_cpu.transformer.kv_cache import KVCache
from llama_cpu.transformer.linear import (
    Linear,
    SeparateLinears,
    Weight,
    make_linear,
    rows_at_once,
)
from llama_cpu.transformer.llama import Block, BlockParts, Llama

_LONGEST_CONTEXT = 1 << 20  # where the checkpoint names no limit
_LONGEST_DRAFT_OF_MODEL = 4  # tokens; each costs a pass of the smaller model
DEFAULT_CONTEXT = 4096  # tokens, where the model was trained for more

Progress = Callable[[int, int, str], None]


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
    lookup: bool = False  # propose what followed the same tokens before
    draft: "LoadPlan | None" = None  # a smaller model that proposes tokens instead

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def source(self) -> Path:
        return self.checkpoint.path


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, with its cache."""

    plan: LoadPlan
    model: Llama
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
    lookup: bool | None = None,
    draft_ckpt_dir: Path | None = None,
) -> LoadPlan:
    """Open the checkpoint and its tokenizer, and make sure that they fit into memory.

    ``ckpt_dir`` None: the folder model/, or the demo model where that is empty; it is fetched if
    need be. ``lookup`` None: where several rows cost little more than one. Raises UserError for
    anything that is wrong.
    """
    is_demo = ckpt_dir is None and not holds_checkpoint(model_folder())
    if is_demo:
        from llama_cpu.demo_model import fetch_demo_model

        ckpt_dir = fetch_demo_model()
    checkpoint = open_checkpoint(ckpt_dir or model_folder())
    tokenizer = load_tokenizer(checkpoint, tokenizer_path, tokenizer_folder())
    checkpoint = replace(checkpoint, metadata={})  # a vocabulary's lists are not needed again
    context = _context(max_seq_len, checkpoint)
    available = available_memory()
    if not force:
        check_fits(checkpoint.config, precision, context, available)
    config_file = checkpoint.path / "generation_config.json"
    plan = LoadPlan(
        checkpoint,
        tokenizer,
        precision,
        context,
        threads or physical_cores(),
        is_demo,
        read_json(config_file) if config_file.exists() else {},
        rows_at_once(precision) > 1 if lookup is None else lookup,
    )
    if draft_ckpt_dir is None:
        return plan
    draft = _plan_draft(plan, draft_ckpt_dir, tokenizer_path)
    if not force:
        left = available - forecast(checkpoint.config, precision, context).total
        check_fits(draft.checkpoint.config, precision, draft.max_seq_len, left)
    return replace(plan, draft=draft)


def _plan_draft(plan: LoadPlan, ckpt_dir: Path, tokenizer_path: Path | None) -> LoadPlan:
    """The plan of a model that proposes tokens to that of ``plan``, whose vocabulary it shares."""
    draft = plan_loading(
        ckpt_dir, tokenizer_path, precision=plan.precision, threads=plan.threads, force=True
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
    """Map every matrix whose file has the wanted type; convert the others into their final place.

    ``on_progress(done, total, name)`` gets bytes of the weights in their final type. The
    checkpoint is used up: its tensors are let go one by one, so that files read whole do not
    stay in memory. Raises Cancelled once ``stop`` is set, UserError where a file is damaged.
    """
    torch.set_num_threads(plan.threads)
    config = plan.checkpoint.config
    cache = _kv_cache(plan)
    reader = _Reader(plan, on_progress, stop)
    tok_embeddings = reader.weight("tok_embeddings")
    blocks = [reader.block(layer) for layer in range(config.n_layers)]
    norm = reader.norm("norm")
    output = tok_embeddings if config.tied_output else reader.weight("output")
    model = Llama(config, tok_embeddings, blocks, norm, output, plan.max_seq_len)
    reader.finish()
    keep_freed_memory()
    end_ids = plan.tokenizer.end_ids() | _configured_end_ids(plan)
    loaded = LoadedModel(plan, model, cache, reader.done, reader.mapped, end_ids)
    if plan.draft is not None:
        return _with_draft(loaded, load(plan.draft, on_progress, stop))
    if plan.lookup:
        longest = max(1, rows_at_once(plan.precision) - 1)
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


class _Reader:
    """Takes tensors out of a checkpoint, in the plan's precision, and tells how far it is."""

    def __init__(self, plan: LoadPlan, on_progress: Progress, stop: Flag) -> None:
        self._config = plan.checkpoint.config
        self._tensors = plan.checkpoint.tensors
        self._precision = plan.precision
        self._on_progress, self._stop = on_progress, stop
        self._total = forecast(self._config, plan.precision, plan.max_seq_len).weights
        self.done = 0  # bytes of weights that are ready
        self.mapped = 0  # of those, read in place
        self._to_read_ahead: list[FileTensor] = []

    def block(self, layer: int) -> Block:
        """The layer's weights, those that read the same input as one product."""
        prefix = f"layers.{layer}."
        attention, feed_forward = prefix + "attention.", prefix + "feed_forward."
        parts = BlockParts(
            attention_norm=self.norm(prefix + "attention_norm"),
            wqkv=self._linear(attention + "wq", attention + "wk", attention + "wv"),
            wo=self._linear(attention + "wo"),
            ffn_norm=self.norm(prefix + "ffn_norm"),
            w13=self._linear(feed_forward + "w1", feed_forward + "w3"),
            w2=self._linear(feed_forward + "w2"),
        )
        return Block(self._config, parts)

    def norm(self, name: str) -> Tensor:
        stored = self._take(name)
        norm = self._in_place(stored, torch.float32)
        if norm is None:
            norm = _empty(stored.shape, torch.float32)
            stored.fill(norm)
            self.done += norm.nbytes
        return norm

    def weight(self, name: str) -> Weight:
        stored = self._take(name)
        in_place = self._in_place(stored, self._precision.dtype)
        return self._converted([stored]) if in_place is None else in_place

    def _linear(self, *names: str) -> Linear:
        """One product with all of these weights, or several where they are mapped: what need not
        be copied is not, and in a file they do not lie side by side."""
        stored = [self._take(name) for name in names]
        in_place = [self._in_place(tensor, self._precision.dtype) for tensor in stored]
        if all(weight is None for weight in in_place):
            return make_linear(self._converted(stored))
        weights = [
            self._converted([tensor]) if weight is None else weight
            for tensor, weight in zip(stored, in_place, strict=True)
        ]
        linears = [make_linear(weight) for weight in weights]
        return linears[0] if len(linears) == 1 else SeparateLinears(linears)

    def _take(self, name: str) -> StoredTensor:
        if self._stop.is_set():
            raise Cancelled
        self._on_progress(self.done, self._total, name)
        return self._tensors.pop(name + ".weight")

    def _in_place(self, stored: StoredTensor, wanted: torch.dtype) -> Tensor | None:
        weight = stored.mapped() if stored.dtype == wanted else None
        if isinstance(stored, FileTensor) and weight is not None:
            self._to_read_ahead.append(stored)
        if weight is not None:
            self.done += weight.nbytes
            self.mapped += weight.nbytes
        return weight

    def _converted(self, stored: list[StoredTensor]) -> Weight:
        """Several weights below each other as one [sum of outs, in]."""
        heights = [tensor.shape[0] for tensor in stored]
        shape = (sum(heights), stored[0].shape[1])
        values = _empty(shape, self._precision.dtype)
        self.done += self._precision.nbytes(shape)
        pieces = values.split(heights)
        if self._precision is not Precision.INT8:
            for tensor, piece in zip(stored, pieces, strict=True):
                tensor.fill(piece)
            return values
        scale = _empty(shape[:1], torch.float32)
        for tensor, piece, piece_scale in zip(stored, pieces, scale.split(heights), strict=True):
            _quantize(tensor, piece, piece_scale)
        return Int8Weight(values, scale)

    def finish(self) -> None:
        """Mapped weights come from the disk while the user types, instead of one by one later."""
        self._on_progress(self._total, self._total, "")
        tensors = self._to_read_ahead
        Thread(target=_read_ahead, args=(tensors,), name="read ahead", daemon=True).start()


def _read_ahead(tensors: list[FileTensor]) -> None:
    for tensor in tensors:
        tensor.read_ahead()


def _quantize(stored: StoredTensor, values: Tensor, scale: Tensor) -> None:
    """Read a matrix and quantise it chunk by chunk, so that it is never there in float32."""
    if isinstance(stored, Int8Tensor):  # was quantised when it was written
        stored.read(values, scale)
        return

    def quantize(first: int, last: int) -> None:
        rows = torch.empty(last - first, stored.shape[1])
        stored.rows(first, last).fill(rows)
        quantize_rows(rows, values[first:last], scale[first:last])

    in_row_chunks(stored.shape[0], 4 * stored.shape[1], quantize)


def _kv_cache(plan: LoadPlan) -> KVCache:
    try:
        return KVCache(plan.checkpoint.config, plan.max_seq_len, plan.precision.cache_dtype)
    except (OSError, OverflowError) as error:  # only with --force; else the forecast has said so
        raise UserError(
            f"The system has no memory for a KV cache of {plan.max_seq_len} tokens; choose a "
            "smaller --max_seq_len."
        ) from error


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:  # as above
        raise UserError(
            "The system has no memory for these weights; close other programs or take a smaller "
            "model."
        ) from error


def _configured_end_ids(plan: LoadPlan) -> frozenset[int]:
    """``eos_token_id`` of generation_config.json: one id or a list of them."""
    ids = plan.generation_config.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return frozenset(index for index in ids if isinstance(index, int))
