"""benchmarks/long_conversation.py with a tiny model; what it measures is not asserted here."""

from pathlib import Path

import pytest

from benchmarks import long_conversation
from benchmarks.long_conversation import CONTEXT, Result, Turn, converse, growth, messages, table
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, tiny_config, write_hugging_face
from tests.support.engine import load_tiny
from tests.support.vocabularies import write_tokenizer_json


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_config(context_length=CONTEXT)
    write_hugging_face(folder, config, random_weights(config))
    write_tokenizer_json(folder)
    return folder


@pytest.mark.parametrize("precision", FORMATS, ids=str)
def test_a_conversation_outgrows_its_context(precision: WeightFormat, tiny: Path) -> None:
    """A token is a byte here, so eight messages exceed the context."""
    loaded = load_tiny(tiny, precision=precision, max_seq_len=CONTEXT)
    turns = list(converse(loaded, 8, 4))
    assert len(turns) == 8
    assert sum(turn.dropped for turn in turns) > 0
    assert all(turn.most >= turn.resident > 0 for turn in turns)
    assert 0 < len(loaded.cache) <= CONTEXT


def test_messages_have_different_lengths_and_are_always_the_same() -> None:
    some = messages(40)
    assert some == messages(40)
    lengths = {len(message.split()) for message in some}
    assert len(lengths) > 20
    assert long_conversation.SHORTEST <= min(lengths) <= max(lengths) <= long_conversation.LONGEST


def test_each_precision_is_a_row(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [each.label for each in FORMATS[:2]]
    options = ["--precisions", ",".join(labels), "--turns", "2", "--answer_tokens", "3"]
    monkeypatch.setattr("sys.argv", ["long_conversation", "--model", str(tiny), *options])
    long_conversation.main()
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert "| after turn 1 | after turn 2 | maximum |" in head
    assert [row.split(" | ")[0] for row in rows] == [f"| {label}" for label in labels]


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["long_conversation", "--model", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match=r"Error: .*nothing"):
        long_conversation.main()
    monkeypatch.setattr("sys.argv", ["long_conversation", "--turns", "0"])
    with pytest.raises(SystemExit):
        long_conversation.main()


def test_the_table_of_memory() -> None:
    turns = [Turn(number * 10**6, number * 10**6, 0.5, 0) for number in range(100, 112)]
    turns[3] = Turn(103 * 10**6, 200 * 10**6, 0.5, 0)
    assert table([Result("int8", "packed", 630 * 10**6, turns)]).splitlines() == [
        "| precision | product | after turn 1 | after turn 10 | after turn 12 | maximum "
        "| growth after turn 10 | estimate | median turn |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| int8 | packed | 100 | 109 | 111 | 200 | +1.8% | 630 | 0.50 s |",
    ]
    assert growth(turns[:10]) == "-"
