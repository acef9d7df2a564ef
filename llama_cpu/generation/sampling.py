"""Sampling of the next token from logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llama_cpu.settings.generation_settings import RANGES, SETTINGS, require_allowed

_CANDIDATES = 512  # number of best tokens tried before the whole vocabulary is sorted


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled. Raises UserError if a value is out of range.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``repetition_penalty`` 1
    each have no effect. The order is that of transformers: penalty, temperature, top-k, top-p,
    min-p.
    """

    temperature: float = 0.8
    top_k: int = 0  # only the k most probable tokens
    top_p: float = 0.95  # only the smallest set of tokens that reaches p (arXiv:1904.09751)
    min_p: float = 0.0  # only tokens of at least p times the best one's probability (2407.01082)
    repetition_penalty: float = 1.0  # of tokens already in the context (arXiv:1909.05858)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in (*RANGES, "seed"):
            require_allowed(name, getattr(self, name), SETTINGS[name], "--")


class Sampler:
    """Samples tokens; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def sample(self, logits: Tensor, context_ids: list[int]) -> int:
        """Sample one token id.

        ``logits``: float32 [vocab], all finite. ``context_ids``: the prompt and the answer so far.
        """
        sampling = self.sampling
        if sampling.repetition_penalty != 1.0:
            logits = penalize_repetition(logits, context_ids, sampling.repetition_penalty)
        if sampling.temperature == 0.0:
            return int(logits.argmax())
        probabilities, ids = candidates(logits, sampling)
        return int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])


def penalize_repetition(logits: Tensor, context_ids: list[int], penalty: float) -> Tensor:
    """Divide positive logits of tokens in the context by the penalty, multiply negative ones."""
    seen = torch.tensor(sorted(set(context_ids)), dtype=torch.int64)
    values = logits[seen]
    penalized = torch.where(values > 0, values / penalty, values * penalty)
    return logits.index_copy(0, seen, penalized.clamp(max=torch.finfo(logits.dtype).max))


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return unnormalised probabilities and ids of the tokens that may be sampled, best first."""
    # The maximum becomes 0, so that a tiny temperature cannot produce infinity.
    scaled = (logits - logits.max()) / max(sampling.temperature, 1e-30)
    probabilities = torch.softmax(scaled, dim=-1)
    vocab = probabilities.shape[0]
    count = min(sampling.top_k or _CANDIDATES, vocab)
    best, ids = probabilities.topk(count)
    if not sampling.top_k and count < vocab and not _cuts_tail(best, sampling):
        best, ids = probabilities.sort(descending=True)
    total = float(best.sum()) if sampling.top_k else 1.0  # top-p applies to the result of top-k
    if sampling.top_p < 1.0:
        before = best.cumsum(0) - best  # probability of all better tokens
        best = best[: max(1, int((before < sampling.top_p * total).sum()))]
    if sampling.min_p > 0.0:
        best = best[best >= sampling.min_p * best[0]]
    return best, ids[: len(best)]


def _cuts_tail(best: Tensor, sampling: Sampling) -> bool:
    """Return whether top-p or min-p would drop all tokens less probable than ``best``."""
    by_top_p = sampling.top_p < 1.0 and float(best.sum()) >= sampling.top_p
    by_min_p = sampling.min_p > 0.0 and bool(best[-1] < sampling.min_p * best[0])
    return by_top_p or by_min_p
