"""From the command line's options to a session with a loaded model."""

import argparse
from collections.abc import Callable
from threading import Event as Flag
from typing import Any

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.config import Fields
from llama_cpu.loading import LoadPlan, Progress, load
from llama_cpu.sampling import RANGES, Sampling
from llama_cpu.standard_input import require_text

OpenSession = Callable[[Progress, Flag], ChatSession]


def session_opener(plan: LoadPlan, args: argparse.Namespace) -> OpenSession:
    """A function that loads the model; everything that can be wrong with the options is wrong now.

    Raises UserError for an option out of its range or an unknown template.
    """
    sampling = sampling_from(plan, args)
    require_text(args.system or "", "--system")
    template = choose_template(args.template, plan.tokenizer, plan.name)

    def open_session(on_progress: Progress, stop: Flag) -> ChatSession:
        loaded = load(plan, on_progress, stop)
        return ChatSession(loaded, template, sampling, args.max_gen_len, args.system)

    return open_session


def sampling_from(plan: LoadPlan, args: argparse.Namespace) -> Sampling:
    """Options given, else the model's generation_config.json, else the program's defaults."""
    values: dict[str, Any] = {}
    configured = Fields(plan.generation_config, plan.source / "generation_config.json")
    for name, (low, high) in RANGES.items():
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
        elif configured.has(name) and isinstance(low, int) and isinstance(high, int):
            values[name] = configured.integer(name, low, high)
        elif configured.has(name):
            values[name] = configured.number(name, low, high)
    if args.temperature is None and not configured.flag("do_sample", default=True):
        values["temperature"] = 0.0
    return Sampling(**values, seed=args.seed)
