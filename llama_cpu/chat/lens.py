"""The token lens: the probability of every token of an answer, and of its alternatives."""

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from threading import Event as Flag

import torch
from torch import Tensor

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.tokenization import StreamDecoder, Tokenizer

ALTERNATIVES = 5
_LOGITS_BYTES = 32 << 20  # limit for the logits of one pass, as vocabularies can be large


@dataclass(frozen=True)
class Candidate:
    """An alternative to a token of the answer."""

    id: int
    text: str  # its bytes as text: ``\\xf0\\x9f`` for an incomplete character
    logprob: float  # natural logarithm; at temperature 1, before any penalty
    ends: bool = False  # whether it is an end token

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class LensToken:
    """A token of an answer, and the most probable alternatives to it."""

    id: int
    text: str  # as in Candidate
    shown: str  # what it adds to the text: "" while a character is incomplete
    logprob: float
    rank: int  # 1: the most probable token
    alternatives: tuple[Candidate, ...]  # most probable first
    seconds: float | None = None  # its time when it was generated, if known

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class LensPart:
    """Progress, and the next tokens of the answer."""

    done: int  # tokens processed so far, of prompt and answer
    total: int  # tokens to process
    tokens: tuple[LensToken, ...] = ()


def look(
    model: Transformer,
    cache: KVCache,
    tokenizer: Tokenizer,
    prompt_ids: list[int],
    answer_ids: list[int],
    seconds: Sequence[float | None],
    stop: Flag,
    end_ids: Container[int] = (),
) -> Iterator[LensPart]:
    """Process the prompt (unless it is cached) and the answer, and yield its tokens' probabilities.

    ``seconds``: the time of each token, as far as known. Setting ``stop`` ends it within one layer.
    Afterwards the cache holds the tokens processed; if its earlier contents began with them, they
    are restored completely.

    Raises UserError if the logits are not finite, the prompt is empty, or prompt and answer exceed
    the context.
    """
    ids = prompt_ids + answer_ids[:-1]  # nothing is predicted from the last token
    if not answer_ids:
        return
    if not prompt_ids:
        raise UserError(
            "The template makes an empty prompt, from which the model cannot predict the answer's "
            "first token; choose another template with --template."
        )
    if len(ids) > cache.max_seq_len:
        raise UserError(
            f"The answer and what was said before have {len(ids)} tokens, but the context holds "
            f"{cache.max_seq_len}; start with a greater --max_seq_len to look at it."
        )
    before = list(cache.token_ids)
    namer = _Namer(tokenizer, end_ids)
    times = chain(seconds, repeat(None))
    try:
        for part in _read(model, cache, namer, prompt_ids, answer_ids, stop):
            tokens = [replace(token, seconds=next(times)) for token in part.tokens]
            yield replace(part, tokens=tuple(tokens))
    except Cancelled:
        return
    finally:
        # The overwritten keys and values are the same except for rounding: rows computed together
        # may differ in the last bit, and int8 uses 8-bit activations for more than 16 rows. Those
        # after them were not touched.
        both = min(len(before), len(ids))
        if before[:both] == ids[:both]:
            cache.extend(before[len(cache) :])


def _read(
    model: Transformer,
    cache: KVCache,
    namer: "_Namer",
    prompt_ids: list[int],
    answer_ids: list[int],
    stop: Flag,
) -> Iterator[LensPart]:
    ids = prompt_ids + answer_ids[:-1]
    reused = cache.reuse(prompt_ids)
    total = len(ids) - reused
    yield LensPart(0, total)
    telling = len(prompt_ids) - 1  # from here on, logits predict the answer's tokens
    for first in range(reused, telling, model.prefill_chunk):
        chunk = ids[first : min(first + model.prefill_chunk, telling)]
        for done, _ in _layers(model, cache, chunk, stop):
            yield LensPart(done - reused, total)
    rows = max(1, min(model.prefill_chunk, _LOGITS_BYTES // (4 * model.config.vocab_size)))
    for first in range(telling, len(ids), rows):
        for done, x in _layers(model, cache, ids[first : first + rows], stop):
            last = x  # after the loop: of the last layer
            yield LensPart(done - reused, total)
        answered = answer_ids[first - telling : first - telling + rows]
        yield LensPart(done - reused, total, _tokens(model.logits(last), answered, namer))


def _layers(
    model: Transformer, cache: KVCache, ids: list[int], stop: Flag
) -> Iterator[tuple[int, Tensor]]:
    """For each layer of a pass: the progress, as an equivalent number of tokens, and its output."""
    start, n_layers = len(cache), model.config.n_layers
    for layer, x in model.layers(ids, cache, stop):
        yield start + len(ids) * layer // n_layers, x


def _tokens(logits: Tensor, ids: Sequence[int], namer: "_Namer") -> tuple[LensToken, ...]:
    """``logits``: float32 [len(ids), vocab]; each row predicts the id at its index."""
    if not math.isfinite(logits.sum()):
        raise UserError(
            "The model computed numbers that are not finite, so there are no probabilities to "
            "show; its weights are probably damaged."
        )
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(ids).unsqueeze(1))  # [len(ids), 1]
    ranks = (logprobs > own).sum(1) + 1
    best, best_ids = logprobs.topk(min(ALTERNATIVES + 1, logprobs.shape[1]))
    tokens = []
    for row, id in enumerate(ids):
        pairs = zip(best_ids[row].tolist(), best[row].tolist(), strict=True)
        others = [
            Candidate(each, namer.text(each), value, each in namer.end_ids)
            for each, value in pairs
            if each != id
        ]
        tokens.append(
            LensToken(
                id,
                namer.text(id),
                namer.shown(id),
                float(own[row]),
                int(ranks[row]),
                tuple(others[:ALTERNATIVES]),
            )
        )
    return tuple(tokens)


class _Namer:
    """Turns tokens into text."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Container[int]) -> None:
        self._tokenizer = tokenizer
        self.end_ids = end_ids
        self._decoder = StreamDecoder(tokenizer)
        self._special = {id: name for name, id in tokenizer.special_tokens.items()}

    def text(self, id: int) -> str:
        """Return the text of a single token."""
        own = self._tokenizer.token_bytes(id).decode("utf-8", errors="backslashreplace")
        return own or self._special.get(id, "")

    def shown(self, id: int) -> str:
        """Return what the next token adds to the text of the answer."""
        return self._decoder.push(id)
