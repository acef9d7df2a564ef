"""From files to a model that is ready to answer: plan, check, then load."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag

import torch
from torch import Tensor

from llama_cpu.checkpoint import Checkpoint, holds_checkpoint, open_checkpoint
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.files import read_json
from llama_cpu.locations import model_folder, tokenizer_folder
from llama_cpu.machine import available_memory, physical_cores
from llama_cpu.memory_forecast import check_fits, final_dtype, forecast
from llama_cpu.tokenization import Tokenizer, load_tokenizer
from llama_cpu.transformer.kv_cache import KVCache
from llama_cpu.transformer.llama import Block, Llama

_LONGEST_CONTEXT = 1 << 20  # where the checkpoint names no limit
DEFAULT_CONTEXT = 4096  # tokens, where the model was trained for more

# Weights of a layer that read the same input; see transformer/linear.py, make_linear.
LAYER_GROUPS = (
    ("attention.wq", "attention.wk", "attention.wv"),
    ("feed_forward.w1", "feed_forward.w3"),
)

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class LoadPlan:
    """Everything that is decided, and can go wrong, before the weights are read."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    dtype: torch.dtype
    max_seq_len: int
    threads: int
    is_demo: bool
    generation_config: dict  # of generation_config.json, {} where there is none

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def source(self) -> Path:
        return self.checkpoint.path

    @property
    def precision(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "float32"


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, with its cache."""

    plan: LoadPlan
    model: Llama
    cache: KVCache
    weights_bytes: int
    mapped_bytes: int  # of those, read in place from the files
    end_ids: frozenset[int]

    @property
    def tokenizer(self) -> Tokenizer:
        return self.plan.tokenizer


def plan_loading(
    ckpt_dir: Path | None = None,
    tokenizer_path: Path | None = None,
    *,
    bf16: bool = False,
    max_seq_len: int | None = None,
    threads: int | None = None,
    force: bool = False,
) -> LoadPlan:
    """Open the checkpoint and its tokenizer, and make sure that they fit into memory.

    ``ckpt_dir`` None: the folder model/, or the demo model where that is empty; it is fetched if
    need be. Raises UserError for anything that is wrong.
    """
    is_demo = ckpt_dir is None and not holds_checkpoint(model_folder())
    if is_demo:
        from llama_cpu.demo_model import fetch_demo_model

        ckpt_dir = fetch_demo_model()
    checkpoint = open_checkpoint(ckpt_dir or model_folder())
    tokenizer = load_tokenizer(checkpoint, tokenizer_path, tokenizer_folder())
    checkpoint = replace(checkpoint, metadata={})  # a vocabulary's lists are not needed again
    dtype = torch.bfloat16 if bf16 else torch.float32
    context = _context(max_seq_len, checkpoint)
    if not force:
        check_fits(checkpoint.config, dtype, context, available_memory())
    config_file = checkpoint.path / "generation_config.json"
    return LoadPlan(
        checkpoint,
        tokenizer,
        dtype,
        context,
        threads or physical_cores(),
        is_demo,
        read_json(config_file) if config_file.exists() else {},
    )


def plan_from_arguments(args: argparse.Namespace) -> LoadPlan:
    """plan_loading with the options of the command line."""
    return plan_loading(
        args.ckpt_dir,
        args.tokenizer_path,
        bf16=args.bf16,
        max_seq_len=args.max_seq_len,
        threads=args.threads,
        force=args.force,
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
    """Map every tensor whose file has the wanted type; convert the others into their final place.

    ``on_progress(done, total, name)`` gets bytes of the weights in their final type. The
    checkpoint is used up: its tensors are let go one by one, so that files read whole do not
    stay in memory. Raises Cancelled once ``stop`` is set, UserError where a file is damaged.
    """
    torch.set_num_threads(plan.threads)
    config = plan.checkpoint.config
    tensors = plan.checkpoint.tensors
    weights: dict[str, Tensor] = {}
    rooms = _rooms_side_by_side(plan)
    mapped = 0
    done, total = 0, forecast(config, plan.dtype, plan.max_seq_len).weights
    for name in list(tensors):
        if stop.is_set():
            raise Cancelled
        on_progress(done, total, name)
        stored = tensors.pop(name)
        dtype = final_dtype(stored.shape, plan.dtype)
        in_place = stored.mapped() if stored.dtype == dtype and name not in rooms else None
        if in_place is None:
            weights[name] = rooms[name] if name in rooms else _empty(stored.shape, dtype)
            stored.fill(weights[name])
        else:
            weights[name] = in_place
            mapped += in_place.nbytes
        done += weights[name].nbytes
    on_progress(total, total, "")
    cache = _kv_cache(plan)
    blocks = [Block(config, weights, f"layers.{layer}.") for layer in range(config.n_layers)]
    model = Llama(config, weights, blocks, plan.max_seq_len)
    return LoadedModel(
        plan,
        model,
        cache,
        done,
        mapped,
        plan.tokenizer.end_ids() | _configured_end_ids(plan),
    )


def _kv_cache(plan: LoadPlan) -> KVCache:
    try:
        return KVCache(plan.checkpoint.config, plan.max_seq_len, plan.dtype)
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


def _rooms_side_by_side(plan: LoadPlan) -> dict[str, Tensor]:
    """Memory for weights that read the same input, by name: adjacent, so that they are one product.

    Only for weights that cannot be mapped; what need not be copied is not. Memory is taken up as
    it is written, so these may all be made at once.
    """
    rooms: dict[str, Tensor] = {}
    tensors = plan.checkpoint.tensors
    for layer in range(plan.checkpoint.config.n_layers):
        for group in LAYER_GROUPS:
            names = [f"layers.{layer}.{kind}.weight" for kind in group]
            stored = [tensors[name] for name in names]
            if any(tensor.dtype == plan.dtype and tensor.mapped() is not None for tensor in stored):
                continue
            rows = [tensor.shape[0] for tensor in stored]
            room = _empty((sum(rows), stored[0].shape[1]), plan.dtype)
            rooms |= dict(zip(names, room.split(rows), strict=True))
    return rooms


def _configured_end_ids(plan: LoadPlan) -> frozenset[int]:
    """``eos_token_id`` of generation_config.json: one id or a list of them."""
    ids = plan.generation_config.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return frozenset(index for index in ids if isinstance(index, int))
