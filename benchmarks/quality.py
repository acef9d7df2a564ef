"""What each precision keeps of the model's quality, on ordinary English text and in answers.

    python -m benchmarks.quality                      # the model of the chat, each precision
    python -m benchmarks.quality --ckpt_dir PATH --precisions float32,bf16

All is compared with the first precision of the list. In the table that is printed:

- perplexity of each text of benchmarks/text, read in windows of 512 tokens, each from an empty
  cache, the first token of a window not counted; the ratio is to the first precision's. A window
  is read at once, as a prompt is; with ``--pass_tokens 16`` by the products that write answers;
- next token: at how many places of these texts the likeliest next token is the same;
- answers: how much of a greedy answer comes before its first token that differs, over some
  questions, an answer being 64 tokens at most.
"""
# ruff: noqa: E402

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
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
_ROWS = 64  # of logits in float64 at a time; a row of Llama 3's is a mebibyte
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
    """What a model made of a text: of every token that it was to foretell, in order."""

    log_likelihoods: Tensor  # float64 [tokens], natural logarithms
    greedy: Tensor  # int64 [tokens], the ids that it held likeliest

    @property
    def perplexity(self) -> float:
        return math.exp(-self.log_likelihoods.mean().item())


@dataclass(frozen=True)
class Quality:
    """One precision's figures."""

    weights_bytes: int
    readings: dict[str, Reading]  # by the text's name
    answers: list[list[int]]  # ids, the end token included


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_dir", type=Path, help="default: as in the chat")
    parser.add_argument("--tokenizer_path", type=Path)
    parser.add_argument("--tokens", type=int, default=4000, help="of each text, at most")
    parser.add_argument("--precisions", type=precisions, default=FORMATS)
    parser.add_argument("--pass_tokens", type=int, default=WINDOW, help="tokens read in one pass")
    args = parser.parse_args()
    if args.tokens < 2:
        parser.error("--tokens must be at least 2, as the first token is not foretold.")
    if args.pass_tokens < 1:
        parser.error("--pass_tokens must be at least 1.")
    try:
        qualities = {
            precision.label: measure(
                plan_loading(args.ckpt_dir, args.tokenizer_path, precision=precision),
                args.tokens,
                args.pass_tokens,
            )
            for precision in args.precisions
        }
    except UserError as error:
        parser.error(str(error))
    print(table(qualities))


def precisions(text: str) -> list[WeightFormat]:
    """The names of an option's value, ``float32,bf16``; what is wrong with it is for argparse."""
    try:
        return [format_of(name) for name in text.split(",")]
    except ValueError as error:
        names = ", ".join(precision.label for precision in FORMATS)
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {names}") from error


def measure(plan: LoadPlan, tokens: int, pass_tokens: int) -> Quality:
    """Loads the model, has it read at most ``tokens`` of each text, ``pass_tokens`` at once, and
    asks it the questions."""
    precision = plan.precision.label
    loaded = load(plan, lambda done, total, name: None, Flag())
    readings = {}
    for path in TEXTS:
        print(f"{precision}: reads {path.stem}", file=sys.stderr)
        text = path.read_text(encoding="utf-8")
        windows = text_windows(text, loaded.tokenizer, tokens, min(WINDOW, plan.max_seq_len))
        readings[path.stem] = read(loaded.model, loaded.cache, windows, pass_tokens)
    print(f"{precision}: answers {len(QUESTIONS)} questions", file=sys.stderr)
    return Quality(loaded.weights_bytes, readings, answers(loaded))


def text_windows(text: str, tokenizer: Tokenizer, tokens: int, window: int) -> list[list[int]]:
    """The text's first ``tokens`` ids, cut into windows of ``window`` ids at most.

    Where the model expects a bos token before a prompt, every window begins with it.
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
    """Each window is read from an empty cache; its first token is not foretold."""
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
    """The ids of the greedy answer to each question, asked in a chat of its own."""
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
    """In Markdown, a row a precision."""
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
    """Share of all places, in all texts, at which both hold the same token likeliest."""
    same = [
        reading.greedy == first.readings[name].greedy for name, reading in quality.readings.items()
    ]
    return torch.cat(same).double().mean().item()


def same_answers(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> float:
    """Share of their tokens that come before the first one that differs."""
    same = sum(common(one, other) for one, other in zip(ours, theirs, strict=True))
    return same / sum(map(len, theirs))


def common(ours: list[int], theirs: list[int]) -> int:
    """How many tokens two answers begin with alike."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    return sum(1 for _ in pairs)


if __name__ == "__main__":
    main()
