"""Short ways to a model and its greedy answer."""

from pathlib import Path
from threading import Event as Flag

import torch

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.events import Event, Token
from llama_cpu.generation import Limits, TextGenerator
from llama_cpu.loading import LoadedModel, LoadPlan, load
from llama_cpu.sampling import Sampler, Sampling
from llama_cpu.tokenization import Tokenizer

GREEDY = Sampling(temperature=0.0)


class ByteTokenizer(Tokenizer):
    """Every byte is a token; 256 upwards are special. For models without a vocabulary."""

    def __init__(self, n_tokens: int = 320) -> None:
        self.n_tokens = n_tokens
        self.special_tokens = {"<s>": 256, "</s>": 257}
        self.bos_token, self.eos_token = "<s>", "</s>"

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


def load_tiny(
    path: Path,
    *,
    bf16: bool = False,
    max_seq_len: int = 512,
    tokenizer: Tokenizer | None = None,
) -> LoadedModel:
    plan = LoadPlan(
        open_checkpoint(path),
        tokenizer or ByteTokenizer(),
        torch.bfloat16 if bf16 else torch.float32,
        max_seq_len,
        threads=2,
        is_demo=False,
        generation_config={},
    )
    return load(plan, lambda done, total, name: None, Flag())


def generator_of(loaded: LoadedModel) -> TextGenerator:
    return TextGenerator(loaded.model, loaded.cache, loaded.tokenizer)


def greedy_events(loaded: LoadedModel, prompt_ids: list[int], count: int) -> list[Event]:
    limits = Limits(count, end_ids=frozenset())
    return list(generator_of(loaded).generate(prompt_ids, Sampler(GREEDY), limits, Flag()))


def greedy(loaded: LoadedModel, prompt_ids: list[int], count: int) -> list[int]:
    events = greedy_events(loaded, prompt_ids, count)
    return [event.id for event in events if isinstance(event, Token)]
