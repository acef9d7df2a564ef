"""What the model thought of every token of a text: one pass over what is written already."""

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
_LOGITS_BYTES = 32 << 20  # of one pass: a large vocabulary's fill the memory otherwise


@dataclass(frozen=True)
class Candidate:
    """A token that might have stood at a place."""

    id: int
    text: str  # its own bytes: ``\\xf0\\x9f`` where they are no whole character
    logprob: float  # natural logarithm; at temperature 1, before any penalty
    ends: bool = False  # an answer ends with it

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class LensToken:
    """A token of an answer, and the best of those that might have stood in its place."""

    id: int
    text: str  # as in Candidate
    shown: str  # what it adds to the answer's text: "" while a character is incomplete
    logprob: float
    rank: int  # 1: no other was more probable
    alternatives: tuple[Candidate, ...]  # the best others
    seconds: float | None = None  # that it took when it was generated, where that is known

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class LensPart:
    """Progress: some more tokens, in the answer's order."""

    done: int  # tokens read so far, of the prompt and the answer
    total: int  # to be read
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
    """Read the prompt, as far as the cache lacks it, and the answer, and tell of each token.

    ``seconds``: what each took, as far as that is known. Setting ``stop`` ends it within one
    layer. The cache holds what was read then; where that is the beginning of what it held before,
    it holds all of that again.

    Raises UserError where the logits are not finite, the prompt is empty, or it is all longer than
    the context.
    """
    ids = prompt_ids + answer_ids[:-1]  # nothing is asked of what follows the last one
    if not answer_ids:
        return
    if not prompt_ids:
        raise UserError(
            "The template makes an empty prompt, so the model has nothing to expect the answer's "
            "first token from; choose another with --template."
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
        # What was written over is the same but for rounding: rows that are read together may
        # differ in the last bit, and in int8 more than 16 take activations of 8 bits. What comes
        # after was left alone.
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
    telling = len(prompt_ids) - 1  # from here on each token's logits are those of the answer's next
    for first in range(reused, telling, model.prefill_chunk):
        chunk = ids[first : min(first + model.prefill_chunk, telling)]
        for done, _ in _layers(model, cache, chunk, stop):
            yield LensPart(done - reused, total)
    rows = max(1, min(model.prefill_chunk, _LOGITS_BYTES // (4 * model.config.vocab_size)))
    for first in range(telling, len(ids), rows):
        for done, x in _layers(model, cache, ids[first : first + rows], stop):
            last = x  # layer's, in the end
            yield LensPart(done - reused, total)
        answered = answer_ids[first - telling : first - telling + rows]
        yield LensPart(done - reused, total, _tokens(model.logits(last), answered, namer))


def _layers(
    model: Transformer, cache: KVCache, ids: list[int], stop: Flag
) -> Iterator[tuple[int, Tensor]]:
    """Of each layer of a pass, how many tokens are read, as if it were all of them, and its x."""
    start, n_layers = len(cache), model.config.n_layers
    for layer, x in enumerate(model.layers(ids, cache, stop), start=1):
        yield start + len(ids) * layer // n_layers, x


def _tokens(logits: Tensor, ids: Sequence[int], namer: "_Namer") -> tuple[LensToken, ...]:
    """logits: float32 [len(ids), vocab], each row of what may stand where its id stands."""
    if not math.isfinite(logits.sum()):
        raise UserError(
            "The model computed numbers that are not finite, so there is nothing to see; its "
            "weights are probably damaged."
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
    """Tokens as text."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Container[int]) -> None:
        self._tokenizer = tokenizer
        self.end_ids = end_ids
        self._decoder = StreamDecoder(tokenizer)
        self._special = {id: name for name, id in tokenizer.special_tokens.items()}

    def text(self, id: int) -> str:
        """The token by itself."""
        own = self._tokenizer.token_bytes(id).decode("utf-8", errors="backslashreplace")
        return own or self._special.get(id, "")

    def shown(self, id: int) -> str:
        """What the answer's next token adds to its text."""
        return self._decoder.push(id)
