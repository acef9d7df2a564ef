"""Short ways to a model and its greedy answer."""

from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag

import torch
from torch import Tensor

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.generation.events import Event, Token
from llama_cpu.generation.generate import Limits, TextGenerator
from llama_cpu.generation.sampling import Sampler, Sampling
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import LoadPlan
from llama_cpu.tokenization import Tokenizer
from llama_cpu.weights.choice import Operators, PreferredOperators, only_in_place
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.float32_linear import Float32Linear
from llama_cpu.weights.linear import BiasedLinear, Linear, Output, Weight
from llama_cpu.weights.weight_format import WeightFormat

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


def make_plan(
    path: Path,
    *,
    precision: WeightFormat = FLOAT32,
    max_seq_len: int = 512,
    tokenizer: Tokenizer | None = None,
    mmap: bool | None = None,
    kv_int8: bool = False,
    operators: Operators | None = None,
) -> LoadPlan:
    """Plan a model with the products that are preferred, or that ``operators`` choose."""
    operators = operators or PreferredOperators()
    products = operators.choose(precision, (64, 64), 2)
    is_mapped = products.product.in_place if mmap is None else mmap
    return LoadPlan(
        open_checkpoint(path),
        tokenizer or ByteTokenizer(),
        precision,
        max_seq_len,
        threads=2,
        is_demo=False,
        generation_config={},
        mmap=is_mapped,
        products=only_in_place(products) if is_mapped else products,
        operators=operators,
        kv_int8=kv_int8,
    )


def load_tiny(
    path: Path,
    *,
    precision: WeightFormat = FLOAT32,
    max_seq_len: int = 512,
    tokenizer: Tokenizer | None = None,
    mmap: bool | None = None,
    kv_int8: bool = False,
    operators: Operators | None = None,
) -> LoadedModel:
    """Load such a plan."""
    plan = make_plan(
        path,
        precision=precision,
        max_seq_len=max_seq_len,
        tokenizer=tokenizer,
        mmap=mmap,
        kv_int8=kv_int8,
        operators=operators,
    )
    return load(plan, lambda done, total, name: None, Flag())


@dataclass
class TensorSource:
    """A model's weights in float32, for ``build_block`` and ``build_model``."""

    tensors: dict[str, Tensor]

    def norm(self, name: str) -> Tensor:
        return self.tensors[f"{name}.weight"]

    def weight(self, name: str) -> Tensor:
        return self.tensors[f"{name}.weight"]

    def linear(self, *names: str) -> Linear:
        weights = torch.cat([self.tensors[f"{name}.weight"] for name in names])
        product = Float32Linear(weights)
        biases = [self.tensors.get(f"{name}.bias") for name in names]
        given = [bias for bias in biases if bias is not None]
        return BiasedLinear(product, torch.cat(given)) if given else product

    def output(self, tok_embeddings: Weight) -> Output:
        weight = self.tensors.get("output.weight", tok_embeddings)
        assert isinstance(weight, Tensor)
        return Float32Linear(weight)


def generator_of(loaded: LoadedModel) -> TextGenerator:
    return TextGenerator(loaded.model, loaded.cache, loaded.tokenizer)


def greedy_events(loaded: LoadedModel, prompt_ids: list[int], count: int) -> list[Event]:
    limits = Limits(count, end_ids=frozenset())
    return list(generator_of(loaded).generate(prompt_ids, Sampler(GREEDY), limits, Flag()))


def greedy(loaded: LoadedModel, prompt_ids: list[int], count: int) -> list[int]:
    events = greedy_events(loaded, prompt_ids, count)
    return [event.id for event in events if isinstance(event, Token)]
