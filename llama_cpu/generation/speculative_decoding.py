"""Tokens that are proposed before they are computed, to be checked several in one pass.

A pass reads all weights, for one token or for some; checking a proposal of several tokens costs
little more than the next token alone. Each row of the pass is sampled in turn as if the ones after
it were not there, and a proposed token is kept if the sampled one is the same; with the first that
differs the rest is thrown away. So every token is drawn from the model's own distribution, and the
same random numbers are drawn for it: with the same seed the answer is the same with and without.
(Leviathan et al., arXiv:2211.17192, for proposals that are certain of themselves.)
"""

from typing import Protocol

from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.tokenization import Tokenizer


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def propose(self, context: list[int], count: int) -> list[int]:
        """At most ``count`` ids that may follow ``context``, which only grows in an answer."""


class LookupDrafter:
    """What followed the last few tokens when they last occurred (prompt lookup decoding).

    Finds much where text is repeated: code that is changed, a text that is summed up.
    """

    LENGTH = 3  # tokens that have to be the same

    def __init__(self) -> None:
        self._read = self.LENGTH  # tokens of the context whose places are known
        self._places: dict[tuple[int, ...], int] = {}  # what came after these tokens is where

    def propose(self, context: list[int], count: int) -> list[int]:
        for place in range(self._read, len(context)):
            self._places[tuple(context[place - self.LENGTH : place])] = place
        self._read = max(self._read, len(context))
        start = self._places.get(tuple(context[-self.LENGTH :]))
        if start is None:
            return []
        proposal: list[int] = []
        for place in range(start, start + count):
            beyond = place - len(context)  # a text going round: what was just proposed comes again
            proposal.append(context[place] if beyond < 0 else proposal[beyond])
        return proposal


class ModelDrafter:
    """What a smaller model with the same vocabulary would write, greedily.

    It reads a long prompt a chunk at a time, and until then proposes nothing: the answer goes on
    meanwhile and can be stopped.
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
    """Whether an id may stand for different texts."""
    if one.n_tokens != other.n_tokens or one.special_tokens != other.special_tokens:
        return True
    return any(one.token_bytes(id_) != other.token_bytes(id_) for id_ in range(one.n_tokens))


class DraftLength:
    """How many tokens to propose: as many as are worth their time, by what was measured.

    ``acceptance`` is the chance that a proposed token is the right one, the ones before it being
    right; costs are seconds of a pass by its number of rows. Both are running averages. Where
    proposing does not pay it stops, and as the acceptance creeps back to its first guess it tries
    again now and then.
    """

    FIRST_GUESS = 0.7
    WEIGHT = 0.1  # of a new figure in an average
    FORGETTING = 0.01  # of what was learnt, with each pass without a proposal
    COST_OF_ROW = 0.05  # of a pass, until it is measured

    def __init__(self, longest: int) -> None:
        self._lengths = [length for length in (1, 3, 7) if length < longest] + [longest]
        self._costs: dict[int, float] = {}
        self.acceptance = self.FIRST_GUESS

    def choose(self) -> int:
        """The number of tokens to propose now; 0 before the cost of a plain pass is known."""
        if 1 not in self._costs:
            return 0
        best = max([0, *self._lengths], key=self._tokens_a_second)
        if best == 0:
            self.acceptance += self.FORGETTING * (self.FIRST_GUESS - self.acceptance)
        return best

    def observe(self, proposed: int, accepted: int, seconds: float) -> None:
        """A pass over ``proposed`` + 1 rows, what was proposed included in its ``seconds``."""
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
