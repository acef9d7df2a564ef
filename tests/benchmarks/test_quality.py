"""The arithmetic of benchmarks/quality.py, against transformers on the same weights."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.quality import (
    ANSWER,
    QUESTIONS,
    TEXTS,
    Quality,
    Reading,
    answers,
    common,
    read,
    same_answers,
    same_next_token,
    table,
    text_windows,
)
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import ByteTokenizer, load_tiny
from tests.support.reference import reference_model

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 5


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(("window", "pass_tokens"), [(200, 512), (64, 512), (64, 16), (64, 7)])
def test_perplexity_is_that_of_transformers(
    window: int, pass_tokens: int, adds_bos: bool, tmp_path: Path
) -> None:
    config = tiny_config()
    weights = random_weights(config)
    loaded = load_tiny(write_meta(tmp_path, config, weights))
    tokenizer = ByteTokenizer()
    tokenizer.adds_bos = adds_bos
    windows = text_windows(TEXT, tokenizer, 300, window)
    reading = read(loaded.model, loaded.cache, windows, pass_tokens)

    reference = reference_model(config, weights)
    bos = [256] if adds_bos else []
    step = window - len(bos)
    losses, greedy = [], []
    for first in range(0, 300, step):
        ids = torch.tensor([bos + list(TEXT.encode())[first : min(first + step, 300)]])
        with torch.inference_mode():
            logits = reference(ids).logits[0, :-1].double()
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
        greedy += logits.argmax(-1).tolist()
    expected = math.exp(math.fsum(losses) / len(losses))
    assert reading.perplexity == pytest.approx(expected, rel=1e-6)
    assert reading.greedy.tolist() == greedy


def test_windows_hold_the_text_in_order() -> None:
    windows = text_windows(TEXT, ByteTokenizer(), 130, 64)
    assert [len(ids) for ids in windows] == [64, 64, 2]
    assert b"".join(map(bytes, windows)) == TEXT.encode()[:130]
    # Of a single token there is nothing to foretell.
    assert [len(ids) for ids in text_windows(TEXT, ByteTokenizer(), 129, 64)] == [64, 64]


def test_shares_of_equal_tokens() -> None:
    first = quality([5, 6, 7, 8], answers=[[1, 2, 3], [4, 5, 6, 7, 8]])
    other = quality([5, 0, 7, 8], answers=[[1, 2, 3], [4, 0, 6, 7, 8, 9]])
    assert same_next_token(other, first) == 0.75
    assert same_answers(other.answers, first.answers) == 4 / 8
    assert common([1, 2], [1, 2, 3]) == common([1, 2, 3], [1, 2]) == 2
    assert common([], [1]) == 0


def test_the_table() -> None:
    first = quality([1, 2], answers=[[1, 2]])
    other = quality([1, 0], answers=[[1, 2]], log_likelihood=-1.1)
    assert table({"float32": first, "int8": other}).splitlines() == [
        "| precision | weights | perplexity of t (2 tokens) | ratio "
        "| same next token | same answers |",
        "| --- | --- | --- | --- | --- | --- |",
        "| float32 | 1.0 MiB | 2.718 | 1.0000 | 100.0% | 100.0% |",
        "| int8 | 1.0 MiB | 3.004 | 1.1052 | 50.0% | 100.0% |",
    ]


def quality(greedy: list[int], answers: list[list[int]], log_likelihood: float = -1.0) -> Quality:
    likelihoods = torch.full((len(greedy),), log_likelihood, dtype=torch.float64)
    return Quality(1 << 20, {"t": Reading(likelihoods, torch.tensor(greedy))}, answers)


def test_the_texts_are_there_and_hold_nothing_but_prose() -> None:
    assert [path.stem for path in TEXTS] == ["opticks", "persuasion"]
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        assert 16_000 < len(text) < 24_000
        assert not set("_*[]<>{}|\r\t") & set(text)
        assert "  " not in text


def test_each_question_is_asked_in_a_chat_of_its_own(tmp_path: Path) -> None:
    config = tiny_config()
    loaded = load_tiny(write_meta(tmp_path, config, random_weights(config)))
    first = answers(loaded)
    assert len(first) == len(QUESTIONS)
    assert all(0 < len(ids) <= ANSWER for ids in first)
    assert answers(loaded) == first
