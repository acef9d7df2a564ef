"""From the command line's options to a session with a loaded model."""

import argparse
from collections.abc import Callable
from threading import Event as Flag

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.loading import LoadPlan, Progress, load
from llama_cpu.sampling import Sampling

OpenSession = Callable[[Progress, Flag], ChatSession]

# The options that generation_config.json of a model may give a default for.
_CONFIGURABLE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def session_opener(plan: LoadPlan, args: argparse.Namespace) -> OpenSession:
    """A function that loads the model; everything that can be wrong with the options is wrong now.

    Raises UserError for an option out of its range or an unknown template.
    """
    sampling = sampling_from(plan, args)
    template = choose_template(args.template, plan.tokenizer, plan.name)

    def open_session(on_progress: Progress, stop: Flag) -> ChatSession:
        loaded = load(plan, on_progress, stop)
        return ChatSession(loaded, template, sampling, args.max_gen_len, args.system)

    return open_session


def sampling_from(plan: LoadPlan, args: argparse.Namespace) -> Sampling:
    """Options given, else the model's generation_config.json, else the program's defaults."""
    values = {}
    for name in _CONFIGURABLE:
        configured = plan.generation_config.get(name)
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
        elif isinstance(configured, (int, float)) and not isinstance(configured, bool):
            values[name] = configured
    return Sampling(**values, seed=args.seed)
