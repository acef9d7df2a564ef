"""The arithmetic of benchmarks/quality.py, against transformers on the same weights."""

import math
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.quality import (
    ANSWER,
    QUESTIONS,
    TEXTS,
    Quality,
    Reading,
    Reference,
    answers,
    common,
    llama_cpp_logits,
    our_logits,
    quantized_files,
    read,
    same_answers,
    table,
    text_windows,
)
from benchmarks.sides import SideFailed
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
    logits = our_logits(loaded.model, loaded.cache, windows, pass_tokens)
    reading = read(logits, windows, Reference(tmp_path))

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
    assert reading.divergences.abs().max() < 1e-6  # it is its own reference


def test_windows_hold_the_text_in_order() -> None:
    windows = text_windows(TEXT, ByteTokenizer(), 130, 64)
    assert [len(ids) for ids in windows] == [64, 64, 2]
    assert b"".join(map(bytes, windows)) == TEXT.encode()[:130]
    # Of a single token there is nothing to foretell.
    assert [len(ids) for ids in text_windows(TEXT, ByteTokenizer(), 129, 64)] == [64, 64]


def test_divergence_from_the_reference(tmp_path: Path) -> None:
    windows = [[0, 1, 2], [3, 4]]
    first = [torch.randn(len(ids), 7) for ids in windows]
    other = [torch.randn(len(ids), 7) for ids in windows]
    reference = Reference(tmp_path)
    mine = read(first, windows, reference)
    theirs = read(other, windows, reference)
    rows = [torch.cat([window[:-1] for window in logits]).double() for logits in (first, other)]
    p, q = (each.log_softmax(-1) for each in rows)
    expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    assert torch.allclose(theirs.divergences, expected, atol=1e-6)
    assert mine.divergences.abs().max() < 1e-6
    assert theirs.same_top(mine) == (rows[0].argmax(-1) == rows[1].argmax(-1)).double().mean()


def stand_in(tmp_path: Path, script: str) -> str:
    """A program in place of the interpreter of the peers' environment."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return str(program)


LOGITS = """
import json, struct, sys
task = json.load(sys.stdin)
sys.stdout.buffer.write(b'{"version": "1", "vocab": 3}\\n')
for ids in task["windows"]:
    for index in ids:
        sys.stdout.buffer.write(struct.pack("3f", index, task["threads"], -index))
"""


def test_logits_of_llama_cpp(tmp_path: Path) -> None:
    python = stand_in(tmp_path, LOGITS)
    logits = list(llama_cpp_logits(Path("model"), [[5, 6], [7]], python, 4))
    assert [each.tolist() for each in logits] == [[[5, 4, -5], [6, 4, -6]], [[7, 4, -7]]]


@pytest.mark.parametrize("written", ["", LOGITS.replace('task["windows"]', "[[1]]")])
def test_llama_cpp_that_fails(written: str, tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"import sys\n{written}\nsys.exit('it cannot')")
    with pytest.raises(SideFailed, match="it cannot"):
        list(llama_cpp_logits(Path("model"), [[5, 6]] * 4, python, 4))


def test_quantized_files(demo_model: Path, tmp_path: Path) -> None:
    assert quantized_files(tmp_path, tmp_path, None, ()) == {}  # a folder
    assert quantized_files(demo_model, tmp_path, None, ("Q4_0",)) == {"Q4_1": demo_model}


def test_shares_of_equal_tokens() -> None:
    first = quality([5, 6, 7, 8], answers=[[1, 2, 3], [4, 5, 6, 7, 8]])
    other = quality([5, 0, 7, 8], answers=[[1, 2, 3], [4, 0, 6, 7, 8, 9]])
    assert other.readings["t"].same_top(first.readings["t"]) == 0.75
    assert same_answers(other.answers, first.answers) == 4 / 8
    assert common([1, 2], [1, 2, 3]) == common([1, 2, 3], [1, 2]) == 2
    assert common([], [1]) == 0


def test_the_table() -> None:
    first = quality([1, 2], answers=[[1, 2]])
    other = quality([1, 0], answers=[[1, 2]], log_likelihood=-1.1)
    theirs = quality([1, 2], answers=[])
    assert table({"float32": first, "int8": other, "theirs": theirs}).splitlines() == [
        "| format | weights | bits per weight | perplexity of t (2 tokens) | ratio "
        "| KL x 1000 | same top | same answers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| float32 | 1.0 MiB | 4.50 | 2.718 | 1.0000 | 12.00 | 100.0% | 100.0% |",
        "| int8 | 1.0 MiB | 4.50 | 3.004 | 1.1052 | 12.00 | 50.0% | 100.0% |",
        "| theirs | 1.0 MiB | 4.50 | 2.718 | 1.0000 | 12.00 | 100.0% |  |",
    ]


def quality(greedy: list[int], answers: list[list[int]], log_likelihood: float = -1.0) -> Quality:
    likelihoods = torch.full((len(greedy),), log_likelihood, dtype=torch.float64)
    divergences = torch.full((len(greedy),), 0.012, dtype=torch.float64)
    readings = {"t": Reading(likelihoods, torch.tensor(greedy), divergences)}
    return Quality(1 << 20, 4.5, readings, answers)


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
