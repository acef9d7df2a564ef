"""The load plan: files, weight format, products, memory and context, decided before loading."""

import argparse
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llama_cpu.checkpoint import Checkpoint, open_checkpoint
from llama_cpu.checkpoint.gguf_sampling import sampling_in_gguf
from llama_cpu.errors import UserError
from llama_cpu.generation.speculative_decoding import vocabularies_differ
from llama_cpu.kernels import compiler
from llama_cpu.loading.demo_model import fetch_demo_model, is_demo_wanted
from llama_cpu.loading.memory_estimate import (
    PROGRAM_BYTES,
    MemoryEstimate,
    cache_dtype,
    check_fits,
    estimate_memory,
    program_in_memory,
    widest_product,
)
from llama_cpu.loading.named_model import NamedModel, named_model
from llama_cpu.loading.weight_reader import can_map
from llama_cpu.settings.generation_settings import RANGES
from llama_cpu.settings.recommended import recommended
from llama_cpu.system.memory import available_memory
from llama_cpu.system.paths import model_folder, tokenizer_folder
from llama_cpu.system.processor import physical_cores
from llama_cpu.system.safe_reading import read_json
from llama_cpu.tokenization import Tokenizer, load_tokenizer
from llama_cpu.weights.as_is import AS_IS
from llama_cpu.weights.block_weight import StoredBlocks
from llama_cpu.weights.choice import Operators, only_in_place, stored_operators
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import format_of
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.kernel_linear import numba_needed
from llama_cpu.weights.operations import ProductChoice
from llama_cpu.weights.weight_format import WeightFormat

_LONGEST_CONTEXT = 1 << 20  # maximum number of tokens if the checkpoint has no limit
DEFAULT_CONTEXT = 4096  # tokens; less if the model was trained for fewer


@dataclass(frozen=True)
class LoadPlan:
    """What to load and how. ``plan_loading`` makes it and checks the files."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    precision: WeightFormat
    max_seq_len: int
    threads: int
    is_demo: bool
    generation_config: Mapping[str, Any]  # as in generation_config.json; may be empty
    mmap: bool  # whether weights that are stored in this format are memory-mapped
    products: ProductChoice[Any]
    operators: Operators  # chose the products; used again for the next model of this run
    kv_int8: bool = False  # whether the KV cache is in int8, and not in the precision's own type
    lookup: bool = False  # prompt-lookup speculative decoding
    draft: "LoadPlan | None" = None  # plan of the draft model for speculative decoding

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def source(self) -> Path:
        return self.checkpoint.path

    @property
    def cache_dtype(self) -> torch.dtype:
        """The type of the keys and values in the KV cache."""
        return cache_dtype(self.precision, self.kv_int8)


def memory_of(plan: LoadPlan, present: int = 0) -> MemoryEstimate:
    """Estimate the memory of a planned model, without its draft model.

    ``present``: bytes of the program that are already allocated.

    Must be called before the model is loaded, because that releases the tensors.
    """
    checkpoint = plan.checkpoint
    return estimate_memory(
        checkpoint.config,
        plan.precision,
        plan.max_seq_len,
        plan.products,
        present=present,
        kv_int8=plan.kv_int8,
        tensors=checkpoint.tensors,
    )


def _check_fits(plan: LoadPlan, available: int, present: int) -> None:
    """Raise UserError if the planned model needs more memory than ``available``."""
    checkpoint = plan.checkpoint
    check_fits(
        checkpoint.config,
        plan.precision,
        plan.max_seq_len,
        available,
        plan.products,
        present=present,
        kv_int8=plan.kv_int8,
        tensors=checkpoint.tensors,
    )


def plan_loading(
    ckpt_dir: Path | None = None,
    tokenizer_path: Path | None = None,
    *,
    precision: WeightFormat | None = None,
    max_seq_len: int | None = None,
    threads: int | None = None,
    force: bool = False,
    mmap: bool | None = None,
    kv_int8: bool = False,
    lookup: bool | None = None,
    draft_ckpt_dir: Path | None = None,
    operators: Operators | None = None,
) -> LoadPlan:
    """Open the checkpoint and its tokenizer, choose the products, and check that the model fits.

    ``ckpt_dir`` None: the folder model/, or the demo model if that folder is empty; the demo model
    is downloaded if necessary. ``precision`` None: ``default_format``. ``mmap`` None: map weights
    unless a packed copy is faster on this processor. ``kv_int8``: keep the KV cache in int8.
    ``lookup`` None: use prompt lookup if several rows cost little more than one. ``operators``
    chooses the products; None: by measuring at the first start, which takes up to 3 s, and then as
    stored.
    Raises UserError if a file or an argument is wrong, or if the memory does not suffice.
    """
    is_demo = is_demo_wanted(ckpt_dir)
    if is_demo:
        ckpt_dir = fetch_demo_model()
    checkpoint = open_checkpoint(ckpt_dir or model_folder())
    tokenizer = load_tokenizer(checkpoint, tokenizer_path, tokenizer_folder())
    generation_config = _generation_config(checkpoint)
    checkpoint = replace(checkpoint, metadata={})  # releases the lists of the vocabulary
    precision = precision or default_format(checkpoint)
    require_kernels(precision)
    context = _context(max_seq_len, checkpoint)
    operators = operators or stored_operators()
    threads = threads or physical_cores()
    products = operators.choose(precision, widest_product(checkpoint.config), threads)
    wanted = products.product.in_place if mmap is None else mmap
    is_mapped = wanted and can_map(checkpoint, precision)
    plan = LoadPlan(
        checkpoint,
        tokenizer,
        precision,
        context,
        threads,
        is_demo,
        generation_config,
        is_mapped,
        only_in_place(products) if is_mapped else products,
        operators,
        kv_int8,
    )
    available, present = available_memory(), program_in_memory()
    if not force:
        _check_fits(plan, available, present)
    several_rows = plan.products.rows_at_once > 1
    plan = replace(plan, lookup=several_rows if lookup is None else lookup)
    if draft_ckpt_dir is None:
        return plan
    draft = _plan_draft(plan, draft_ckpt_dir, tokenizer_path, mmap)
    if not force:
        left = available - memory_of(plan, present).total
        _check_fits(draft, left, PROGRAM_BYTES)  # the program is counted with the model
    return replace(plan, draft=draft)


def default_format(checkpoint: Checkpoint) -> WeightFormat:
    """Return the weight format for a checkpoint if the user names none.

    Quantized GGUF files, and those of ``merge_weights.py --int4``, are used as they are. Without
    kernels, which need Numba, the weights are rounded to 8 bits instead. All other checkpoints are
    computed in float32.
    """
    if not any(isinstance(tensor, StoredBlocks) for tensor in checkpoint.tensors.values()):
        return FLOAT32
    return AS_IS if compiler.works() else INT8


def require_kernels(precision: WeightFormat) -> None:
    """Warn once if there are no kernels. Raises UserError if the weight format needs them."""
    if compiler.works():
        return
    if not any(product.works() for product in precision.operations.products):
        raise numba_needed(precision.switch)
    warnings.warn(
        "Numba is missing or does not work here, so answers are computed by PyTorch alone, which "
        "is slower; install it with: pip install numba.",
        UserWarning,
        stacklevel=2,
    )


def _generation_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the file generation_config.json, or what a GGUF file says in its place.

    If it names no sampling, that which is known to suit the family of the model is added.
    """
    file = checkpoint.path / "generation_config.json"
    own = read_json(file) if file.exists() else sampling_in_gguf(checkpoint.metadata)
    if any(name in own for name in (*RANGES, "do_sample")):
        return own
    full_name = f"{checkpoint.name} {checkpoint.metadata.get('general.name', '')}"
    return {**recommended(full_name), **own}


def _plan_draft(
    plan: LoadPlan, ckpt_dir: Path, tokenizer_path: Path | None, mmap: bool | None
) -> LoadPlan:
    """Plan a draft model for the model of ``plan``. Raises UserError if vocabularies differ."""
    draft = plan_loading(
        ckpt_dir,
        tokenizer_path,
        precision=plan.precision,
        threads=plan.threads,
        force=True,
        mmap=mmap,
        kv_int8=plan.kv_int8,
        operators=plan.operators,
    )
    if vocabularies_differ(plan.tokenizer, draft.tokenizer):
        raise UserError(
            f"{ckpt_dir}: this draft model has another vocabulary than {plan.name}; take a "
            "smaller model of the same family for --draft_ckpt_dir."
        )
    return replace(draft, max_seq_len=min(plan.max_seq_len, draft.checkpoint.config.context_length))


def plan_from_arguments(args: argparse.Namespace, operators: Operators | None = None) -> LoadPlan:
    """Call ``plan_loading`` with the options of the command line.

    ``operators`` None: those of the program, which ``--retune`` has measure again. The model that
    ``--model`` names is downloaded if necessary.
    """
    named = named_model(args.model) if args.model else NamedModel(args.ckpt_dir)
    plan = plan_loading(
        named.path,
        args.tokenizer_path,
        precision=format_of(args.precision) if args.precision else None,
        max_seq_len=args.max_seq_len,
        threads=args.threads,
        force=args.force,
        mmap=args.mmap,
        kv_int8=args.kv_int8,
        lookup=args.lookup,
        draft_ckpt_dir=args.draft_ckpt_dir,
        operators=operators or stored_operators(args.retune, _note_measuring),
    )
    name = named.name or plan.name
    return replace(plan, checkpoint=replace(plan.checkpoint, name=name))


def _note_measuring() -> None:
    """Say at a terminal what takes some seconds; the app keeps it off its screen."""
    if sys.stderr.isatty():
        print("Compiling and timing products for this processor (once) ...", file=sys.stderr)


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
