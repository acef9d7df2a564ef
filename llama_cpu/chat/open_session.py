"""Opens a session with a loaded model from the command line's options."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from threading import Event as Flag
from typing import Any

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.errors import UserError
from llama_cpu.generation.sampling import Sampling
from llama_cpu.kv_store.fingerprint import fingerprint
from llama_cpu.kv_store.keeper import CacheKeeper
from llama_cpu.kv_store.store import KVStore
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import LoadPlan
from llama_cpu.loading.weight_reader import Progress
from llama_cpu.settings.generation_settings import RANGES, Settings
from llama_cpu.system.fields import Fields
from llama_cpu.system.standard_input import require_text

OpenSession = Callable[[Progress, Flag], ChatSession]


def session_opener(
    plan: LoadPlan, args: argparse.Namespace, conversation: Conversation | None = None
) -> OpenSession:
    """Check the options and return a function that loads the model.

    ``conversation``: None for a new one in memory. Raises UserError for an option out of range and
    for an unknown template; the returned function raises what ``load`` does.
    """
    sampling = sampling_from(plan, args)
    require_text(args.system or "", "--system")
    template = choose_template(args.template, plan.tokenizer, plan.name)

    def open_session(on_progress: Progress, stop: Flag) -> ChatSession:
        store = _kv_store(args, conversation)
        weights = _fingerprint(plan) if store else ""  # before loading releases the tensors
        loaded = load(plan, on_progress, stop)
        keeper = cache_keeper(store, loaded, weights) if store and weights else None
        return ChatSession(
            loaded,
            template,
            sampling,
            args.max_gen_len,
            args.system,
            conversation,
            keeper,
            model_settings(plan),
        )

    return open_session


def cache_keeper(store: KVStore, loaded: LoadedModel, weights: str) -> CacheKeeper:
    """The keeper of a loaded model's KV cache. ``weights``: the fingerprint of its weights."""
    plan = loaded.plan
    return CacheKeeper(
        store,
        loaded.cache,
        vocab_size=plan.checkpoint.config.vocab_size,
        model=plan.name,
        weights=weights,
        precision=plan.precision.label,
    )


def _fingerprint(plan: LoadPlan) -> str:
    """Fingerprint the weights; "" if the files cannot be read, so that no KV cache is saved."""
    try:
        return fingerprint(plan.checkpoint)
    except OSError:
        return ""


def _kv_store(args: argparse.Namespace, conversation: Conversation | None) -> KVStore | None:
    if conversation is None or conversation.history.file is None:
        return None
    return KVStore(conversation.history, args.kv_file_mib << 20, args.kv_files_mib << 20)


def model_settings(plan: LoadPlan) -> Settings:
    """The settings that the model itself recommends, whatever the options and presets are.

    A value out of range, which an option may have overridden, gives the program's defaults.
    """
    no_options = argparse.Namespace(**dict.fromkeys([*RANGES, "seed"]))
    try:
        return Settings(**asdict(sampling_from(plan, no_options)))
    except UserError:
        return Settings()


def sampling_from(plan: LoadPlan, args: argparse.Namespace) -> Sampling:
    """Sampling settings from the options, else those of the model, else the defaults.

    Raises UserError for a value out of range.
    """
    values: dict[str, Any] = {}
    source = plan.source
    file = source if source.is_file() else source / "generation_config.json"
    configured = Fields(plan.generation_config, file)
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
