"""Checks another model for the conversation before the present one is unloaded."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.open_session import OpenSession, session_opener
from llama_cpu.loading.memory_estimate import PROGRAM_BYTES, check_fits, program_in_memory
from llama_cpu.loading.plan import LoadPlan, memory_of, plan_loading
from llama_cpu.weights.weight_format import WeightFormat


@dataclass(frozen=True)
class Choice:
    """A model that is ready to be loaded."""

    plan: LoadPlan
    open_session: OpenSession

    @property
    def needed(self) -> int:
        """Bytes of memory that the model will need beside what the program has now."""
        needed = memory_of(self.plan, program_in_memory()).total
        return needed + (memory_of(self.plan.draft, PROGRAM_BYTES).total if self.plan.draft else 0)


# Takes the file or folder, the display name, the precision, and the bytes of memory that will be
# free for it (None: do not check).
ChooseModel = Callable[[Path, str, WeightFormat, "int | None"], Choice]


def model_chooser(
    args: argparse.Namespace, first: LoadPlan | None, conversation: Conversation
) -> ChooseModel:
    """Return a function that opens a model's files with the options of the command line.

    ``first``: the model that the program started with, None if it could not be opened; the
    tokenizer and draft model options apply only to it. The function raises UserError if the files
    are invalid or memory is too small.
    """

    def choose(path: Path, name: str, precision: WeightFormat, free: int | None) -> Choice:
        is_first = first is not None and path == first.source
        plan = plan_loading(
            path,
            args.tokenizer_path if is_first else None,
            precision=precision,
            max_seq_len=first.max_seq_len if first and is_first else None,
            threads=args.threads,
            force=True,  # more memory will be free than now
            mmap=args.mmap,
            kv_int8=args.kv_int8,
            lookup=args.lookup,
            draft_ckpt_dir=args.draft_ckpt_dir if is_first else None,
            operators=first.operators if first else None,
        )
        config = plan.checkpoint.config
        if args.max_seq_len and not is_first:
            wanted = min(args.max_seq_len, config.context_length)
            plan = replace(plan, max_seq_len=max(16, wanted))
        if free is not None and not args.force:
            check_fits(
                config,
                plan.precision,
                plan.max_seq_len,
                free,
                plan.products,
                present=program_in_memory(),
                kv_int8=plan.kv_int8,
                tensors=plan.checkpoint.tensors,
            )
        is_demo = first is not None and is_first and first.is_demo
        plan = replace(plan, checkpoint=replace(plan.checkpoint, name=name), is_demo=is_demo)
        return Choice(plan, session_opener(plan, args, conversation))

    return choose
