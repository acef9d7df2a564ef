"""Sampling against transformers' own processors, and its edges."""

from collections import Counter

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llama_cpu.errors import UserError
from llama_cpu.generation.sampling import Sampler, Sampling, candidates, penalize_repetition

SETTINGS = [
    {},
    {"top_p": 0.5},
    {"top_p": 1.0},
    {"top_p": 0.999, "temperature": 3.0},  # flat: more than the quickly sorted candidates
    {"top_k": 5, "top_p": 1.0},
    {"top_k": 40, "top_p": 0.7},
    {"min_p": 0.1, "top_p": 1.0},
    {"min_p": 0.02, "top_p": 0.9, "top_k": 700},
    {"temperature": 0.1, "top_p": 0.3},
    {"top_p": 0.0},
]


def reference_probabilities(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    no_ids = torch.LongTensor([[0]])  # which these do not look at
    return torch.softmax(warpers(no_ids, logits[None].clone())[0], -1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocab", [7, 3000])
def test_same_candidates_as_transformers(settings: dict, vocab: int) -> None:
    logits = 3 * torch.randn(vocab, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(**settings)
    if sampling.top_k > vocab:
        pytest.skip("transformers does not take it")
    expected = reference_probabilities(logits, sampling)
    probabilities, ids = candidates(logits, sampling)
    ours = torch.zeros(vocab)
    ours[ids] = probabilities / probabilities.sum()
    torch.testing.assert_close(ours, expected)


def test_repetition_penalty_as_in_transformers() -> None:
    logits = torch.randn(50)
    context = [3, 3, 7, 49]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([context]), logits[None].clone())
    torch.testing.assert_close(penalize_repetition(logits, context, 1.3), expected[0])


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.25, 0.2, 0.05]).log()
    sampler = Sampler(Sampling(temperature=1.0, top_p=1.0, seed=1))
    counts = Counter(sampler.sample(logits, []) for _ in range(4000))
    for index, share in enumerate([0.5, 0.25, 0.2, 0.05]):
        assert abs(counts[index] / 4000 - share) < 0.03


def test_seed() -> None:
    logits = torch.randn(1000)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=2.0, seed=seed))
        return [sampler.sample(logits, []) for _ in range(20)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
    assert draws(None) != draws(None)


def test_greedy() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert Sampler(Sampling(temperature=0.0)).sample(logits, []) == 1
    assert Sampler(Sampling(temperature=0.0, repetition_penalty=2.0)).sample(logits, [1]) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_out_of_range(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Sampling(**settings)
