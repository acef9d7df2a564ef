"""Compare the quality of a model in each precision, on ordinary English text and in answers.

    python -m benchmarks.quality                      # the model of the chat, each precision
    python -m benchmarks.quality --ckpt_dir PATH --precisions float32,bf16
    python -m benchmarks.quality --kv_int8            # each precision also with an int8 KV cache

The reference is the first precision of the list. The table contains:

- the perplexity of each text of benchmarks/text, and its ratio to that of the reference. Texts are
  read in chunks of 512 tokens; each begins with an empty KV cache, and its first token does not
  count. A chunk is read in one pass, like a prompt; ``--pass_tokens 16`` measures the products that
  are used for few rows instead;
- "same next token": the fraction of positions in these texts at which the most probable next token
  is that of the reference;
- "same answers": the fraction of greedy answers (64 tokens at most) to some questions that comes
  before the first different token.
"""
# ruff: noqa: E402

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path
from threading import Event as Flag

from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()  # before torch is imported

import torch
from torch import Tensor

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Token
from llama_cpu.generation.sampling import Sampling
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import LoadPlan, plan_loading
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.system.text import human_bytes
from llama_cpu.tokenization import Tokenizer
from llama_cpu.weights.formats import FORMATS, format_of
from llama_cpu.weights.weight_format import WeightFormat

TEXTS = sorted((Path(__file__).parent / "text").glob("*.txt"))
WINDOW = 512
ANSWER = 64  # tokens
_ROWS = 64  # rows of logits converted to float64 at a time; a row of Llama 3 takes 1 MiB
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper and a whale.",
    "How do I make a good cup of tea?",
    "List five uses for an old newspaper.",
    "What is the difference between a frog and a toad?",
    "Write a Python function that reverses a string.",
    "Summarise what happens to water when it freezes.",
    "A train leaves at 3 o'clock and drives for two and a half hours. When does it arrive?",
    "Write a polite letter asking a neighbour to keep the music down.",
    "Who was Isaac Newton?",
    "Give me advice for learning to play the piano as an adult.",
)


@dataclass(frozen=True)
class Reading:
    """A model's predictions for the tokens of a text, in order."""

    log_likelihoods: Tensor  # float64 [tokens], natural logarithms
    greedy: Tensor  # int64 [tokens], the most probable ids

    @property
    def perplexity(self) -> float:
        return math.exp(-self.log_likelihoods.mean().item())


@dataclass(frozen=True)
class Quality:
    """The results of one precision."""

    weights_bytes: int
    readings: dict[str, Reading]  # by the name of the text
    answers: list[list[int]]  # token ids, including the end token


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_dir", type=Path, help="default: as in the chat")
    parser.add_argument("--tokenizer_path", type=Path)
    parser.add_argument(
        "--tokens", type=int, default=4000, help="maximum number of tokens of each text"
    )
    parser.add_argument("--precisions", type=precisions, default=FORMATS)
    parser.add_argument(
        "--pass_tokens", type=int, default=WINDOW, help="number of tokens per forward pass"
    )
    parser.add_argument(
        "--kv_int8", action="store_true", help="measure each precision also with an int8 KV cache"
    )
    args = parser.parse_args()
    if args.tokens < 2:
        parser.error("--tokens must be at least 2, because the first token is not predicted.")
    if args.pass_tokens < 1:
        parser.error("--pass_tokens must be at least 1.")
    try:
        qualities = {}
        for precision, kv_int8 in product(args.precisions, [False, True][: 1 + args.kv_int8]):
            plan = plan_loading(
                args.ckpt_dir, args.tokenizer_path, precision=precision, kv_int8=kv_int8
            )
            qualities[row_name(plan)] = measure(plan, args.tokens, args.pass_tokens)
    except UserError as error:
        parser.error(str(error))
    print(table(qualities))


def precisions(text: str) -> list[WeightFormat]:
    """Parse the value of an option, such as ``float32,bf16``. Raises ArgumentTypeError."""
    try:
        return [format_of(name) for name in text.split(",")]
    except ValueError as error:
        names = ", ".join(precision.label for precision in FORMATS)
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {names}") from error


def row_name(plan: LoadPlan) -> str:
    return plan.precision.label + (", int8 KV cache" if plan.kv_int8 else "")


def measure(plan: LoadPlan, tokens: int, pass_tokens: int) -> Quality:
    """Load a model and measure its quality.

    ``tokens``: maximum number of tokens of each text. ``pass_tokens``: tokens per forward pass.
    """
    name = row_name(plan)
    loaded = load(plan, lambda done, total, name: None, Flag())
    readings = {}
    for path in TEXTS:
        print(f"{name}: reads {path.stem}", file=sys.stderr)
        text = path.read_text(encoding="utf-8")
        windows = text_windows(text, loaded.tokenizer, tokens, min(WINDOW, plan.max_seq_len))
        readings[path.stem] = read(loaded.model, loaded.cache, windows, pass_tokens)
    print(f"{name}: answers {len(QUESTIONS)} questions", file=sys.stderr)
    return Quality(loaded.weights_bytes, readings, answers(loaded))


def text_windows(text: str, tokenizer: Tokenizer, tokens: int, window: int) -> list[list[int]]:
    """Return the first ``tokens`` ids of the text in chunks of at most ``window`` ids.

    If the model expects a bos token before a prompt, every chunk begins with it.
    """
    bos = [tokenizer.special_tokens[tokenizer.bos_token]] if tokenizer.adds_bos else []
    ids = tokenizer.encode(text, specials=False)[:tokens]
    step = window - len(bos)
    windows = [bos + ids[first : first + step] for first in range(0, len(ids), step)]
    return [ids for ids in windows if len(ids) > 1]


@torch.inference_mode()
def read(
    model: Transformer, cache: KVCache, windows: Sequence[list[int]], pass_tokens: int = WINDOW
) -> Reading:
    """Predict the tokens of each chunk, except its first, beginning with an empty KV cache."""
    log_likelihoods, greedy = [], []
    for ids in windows:
        cache.reuse([])
        passes = [ids[first : first + pass_tokens] for first in range(0, len(ids), pass_tokens)]
        logits = torch.cat([model.forward(some, cache, all_logits=True) for some in passes])[:-1]
        for rows, following in zip(
            logits.split(_ROWS), torch.tensor(ids[1:]).split(_ROWS), strict=True
        ):
            log_probabilities = rows.double().log_softmax(-1)  # [rows, vocab]
            log_likelihoods.append(log_probabilities.gather(1, following[:, None])[:, 0])
            greedy.append(rows.argmax(-1))
    return Reading(torch.cat(log_likelihoods), torch.cat(greedy))


def answers(loaded: LoadedModel) -> list[list[int]]:
    """Return the token ids of the greedy answer to each question, each in a new conversation."""
    template = choose_template(None, loaded.tokenizer, loaded.plan.name)
    session = ChatSession(loaded, template, Sampling(temperature=0.0), ANSWER)
    try:
        return [answer(session, question) for question in QUESTIONS]
    finally:
        session.close()


def answer(session: ChatSession, question: str) -> list[int]:
    session.conversation.clear()
    session.conversation.add_user(question)
    return [event.id for event in session.answer(Flag()) if isinstance(event, Token)]


def table(qualities: dict[str, Quality]) -> str:
    """Return a Markdown table with one row per precision."""
    first = next(iter(qualities.values()))
    head = ["precision", "weights"]
    for name, reading in first.readings.items():
        head += [f"perplexity of {name} ({len(reading.greedy)} tokens)", "ratio"]
    rows = [[*head, "same next token", "same answers"], ["---"] * (len(head) + 2)]
    for precision, quality in qualities.items():
        row = [precision, human_bytes(quality.weights_bytes)]
        for name, reading in quality.readings.items():
            ratio = reading.perplexity / first.readings[name].perplexity
            row += [f"{reading.perplexity:.3f}", f"{ratio:.4f}"]
        row.append(f"{same_next_token(quality, first):.1%}")
        row.append(f"{same_answers(quality.answers, first.answers):.1%}")
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def same_next_token(quality: Quality, first: Quality) -> float:
    """Return the fraction of positions, in all texts, with the same most probable token."""
    same = [
        reading.greedy == first.readings[name].greedy for name, reading in quality.readings.items()
    ]
    return torch.cat(same).double().mean().item()


def same_answers(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> float:
    """Return the fraction of their tokens that come before the first different token."""
    same = sum(common(one, other) for one, other in zip(ours, theirs, strict=True))
    return same / sum(map(len, theirs))


def common(ours: list[int], theirs: list[int]) -> int:
    """Return the length of the common prefix of two answers."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    return sum(1 for _ in pairs)


if __name__ == "__main__":
    main()
