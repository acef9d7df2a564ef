"""Speculative decoding: a drafter proposes tokens, and one forward pass verifies several.

A forward pass reads all weights, for one token as for several, so verifying a few draft tokens
costs little more than computing the next token alone. Each row of logits is sampled in turn; a
draft token is accepted if the sampled token is the same, and the first difference discards the rest
of the draft. Every token is thus sampled from the model's own distribution with the same random
numbers: for a given seed, the answer is the same with and without speculative decoding. (Leviathan
et al., arXiv:2211.17192, for a deterministic drafter.)
"""

from typing import Protocol

from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.tokenization import Tokenizer


class Drafter(Protocol):
    """Proposes draft tokens."""

    def propose(self, context: list[int], count: int) -> list[int]:
        """Propose at most ``count`` ids after ``context``, which only grows within an answer."""


class LookupDrafter:
    """Prompt lookup: proposes the tokens that followed the previous occurrence of the last few.

    It is effective for repetitive text, for example when code is edited or a text is summarised.
    """

    LENGTH = 3  # number of tokens that must match

    def __init__(self) -> None:
        self._read = self.LENGTH  # number of context tokens that are indexed
        self._places: dict[tuple[int, ...], int] = {}  # index after these tokens

    def propose(self, context: list[int], count: int) -> list[int]:
        for place in range(self._read, len(context)):
            self._places[tuple(context[place - self.LENGTH : place])] = place
        self._read = max(self._read, len(context))
        start = self._places.get(tuple(context[-self.LENGTH :]))
        if start is None:
            return []
        proposal: list[int] = []
        for place in range(start, start + count):
            # Past the end of the context, continue the repetition with the proposal itself.
            beyond = place - len(context)
            proposal.append(context[place] if beyond < 0 else proposal[beyond])
        return proposal


class ModelDrafter:
    """A draft model: a smaller model with the same vocabulary, decoded greedily.

    It prefills a long prompt one chunk per call and proposes nothing until that is done, so that
    the answer continues meanwhile and can be stopped.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self.model = model
        self.cache = cache

    def propose(self, context: list[int], count: int) -> list[int]:
        if len(context) + count > self.cache.max_seq_len:
            return []
        unread = context[self.cache.reuse(context) :]
        logits = self.model.forward(unread[: self.model.prefill_chunk], self.cache)
        if len(unread) > self.model.prefill_chunk:
            return []
        proposal = [int(logits.argmax())]
        while len(proposal) < count:
            proposal.append(int(self.model.forward(proposal[-1:], self.cache).argmax()))
        return proposal


def vocabularies_differ(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether some id stands for different texts in the two vocabularies."""
    if one.n_tokens != other.n_tokens or one.special_tokens != other.special_tokens:
        return True
    return any(one.token_bytes(id_) != other.token_bytes(id_) for id_ in range(one.n_tokens))


class DraftLength:
    """Chooses the length of drafts that maximises tokens per second, from measurements.

    ``acceptance`` estimates the probability that a draft token is accepted, given that the ones
    before it were. Costs are seconds of a pass, by its number of rows. Both are running averages.
    If drafts do not pay, they stop; the acceptance then drifts back to its first guess, so that
    they are tried again from time to time.
    """

    FIRST_GUESS = 0.7
    WEIGHT = 0.1  # of a new measurement in a running average
    FORGETTING = 0.01  # drift towards FIRST_GUESS with each pass without a draft
    COST_OF_ROW = 0.05  # relative to a pass with one row, until it is measured

    def __init__(self, longest: int) -> None:
        self._lengths = [length for length in (1, 3, 7) if length < longest] + [longest]
        self._costs: dict[int, float] = {}
        self.acceptance = self.FIRST_GUESS

    def choose(self) -> int:
        """Return the number of tokens to propose now; 0 until a pass with one row was measured."""
        if 1 not in self._costs:
            return 0
        best = max([0, *self._lengths], key=self._tokens_a_second)
        if best == 0:
            self.acceptance += self.FORGETTING * (self.FIRST_GUESS - self.acceptance)
        return best

    def observe(self, proposed: int, accepted: int, seconds: float) -> None:
        """Record a pass over ``proposed`` + 1 rows. ``seconds`` includes making the draft."""
        rows = proposed + 1
        before = self._costs.get(rows, seconds)
        self._costs[rows] = before + self.WEIGHT * (seconds - before)
        for _ in range(accepted):
            self.acceptance += self.WEIGHT * (1 - self.acceptance)
        if accepted < proposed:
            self.acceptance -= self.WEIGHT * self.acceptance

    def _tokens_a_second(self, length: int) -> float:
        tokens = sum(self.acceptance**position for position in range(length + 1))
        return tokens / self._cost(length + 1)

    def _cost(self, rows: int) -> float:
        return self._costs.get(rows) or self._costs[1] * (1 + self.COST_OF_ROW * (rows - 1))
