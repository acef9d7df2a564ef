"""Search: what is found, and that no words are wrong."""

from pathlib import Path

import pytest

from llama_cpu.history import search as search_module
from llama_cpu.history.rows import State
from llama_cpu.history.store import History

HOSTILE = [
    '"', "'", '""', "*", "a*", "*a", "(", ")", "(a OR", "NEAR", "NEAR(", "a NEAR/2 b", "AND", "OR",
    "NOT", "NOT a", "-a", "+a", "a + b", "^a", "a:b", "text:a", "title : a", "{text}: a", "{",
    "\\", "a\\", "%", "_", "%%", "a%", "\0", "a\0b", "\ud800", "a\udfff", ";", "--",
    "'; DROP TABLE", "́", "🙂", "  ", "", "\n\t", "你", "你%_\\", "x" * 100_000,
    "a " * 5_000, "% " * 60_000,
]  # fmt: skip


@pytest.fixture(params=["index", "reading"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, database: Path):
    """With FTS5 and without."""
    if request.param == "reading":
        monkeypatch.setattr(search_module, "_has_fts5", lambda connection: False)
    with History(database) as history:
        yield history


def say(history: History, *texts: str, title: str = "") -> int:
    new = history.create(title=title).id
    parent = None
    for text in texts:
        parent = history.add_message(new, parent, "user", text).id
    return new


def ids(history: History, words: str) -> list[int]:
    return [conversation.id for conversation, _ in history.search(words)]


def test_words_in_messages_and_titles(either: History) -> None:
    france = say(either, "What is the capital of France?", "And of\nGermany?")
    cooking = say(either, "How long do I boil an egg?", title="Cooking for Frank")
    assert ids(either, "capital") == ids(either, "CAPITAL FRANCE") == [france]
    assert ids(either, "fran") == [cooking, france]
    assert ids(either, "cooking") == ids(either, "boil an eg") == [cooking]
    assert ids(either, "capital germany") == []  # in two messages
    assert ids(either, "nothing") == []
    assert [each.id for each in either.conversations()] == [cooking, france]


def test_what_is_found_comes_with_its_place(either: History) -> None:
    new = say(either, "word " * 50 + "the\nneedle\there " + "word " * 50, title="Haystack")
    ((conversation, found),) = either.search("needle")
    assert conversation == either.get(new)
    assert found.message_id == either.path(new)[0].id
    assert "the needle here" in found.snippet and len(found.snippet) < 200
    ((_, in_title),) = either.search("haystack")
    assert (in_title.message_id, in_title.snippet) == (None, "")
    edited = either.add_message(new, None, "user", "another needle")
    ((_, newest),) = either.search("needle")
    assert newest.message_id == edited.id


def test_what_changes_is_found_as_it_is(either: History) -> None:
    new = say(either, "Question")
    begun = either.begin_answer(new, either.path(new)[0].id, "model")
    either.save_answer(begun.id, "apples", [1])
    assert ids(either, "apples") == [new]
    either.save_answer(begun.id, "pears", [1], state=State.COMPLETE)
    assert (ids(either, "apples"), ids(either, "pears")) == ([], [new])
    either.rename(new, "Plums")
    assert (ids(either, "plums"), ids(either, "question")) == ([new], [new])
    either.delete_message(begun.id)
    assert ids(either, "pears") == []
    either.delete(new)
    assert ids(either, "plums") == ids(either, "question") == []


@pytest.mark.parametrize("words", HOSTILE, ids=lambda words: ascii(words)[:20])
def test_no_words_are_wrong(either: History, words: str) -> None:
    say(either, "quiet")
    assert ids(either, words) == []


def test_words_are_only_words(either: History) -> None:
    operators = say(either, 'NEAR OR NOT "quoted" 100% a_b c\\d e:f')
    say(either, "100 acb c/d")
    for words in ("NEAR", "OR NOT", '"quoted"', "100% a_b", "c\\d", "e:f", "%", "\\"):
        assert operators in ids(either, words), words
    assert ids(either, "% \\") == [operators]


def test_scripts_without_spaces(either: History) -> None:
    new = say(either, "法国的首都是巴黎")
    assert ids(either, "首都") == ids(either, "巴黎") == [new]
    assert ids(either, "柏林") == []


def test_accents_do_not_matter_to_the_index(history: History) -> None:
    new = say(history, "Ein Café in Łódź, ÄRGER")
    assert ids(history, "cafe") == ids(history, "ärger") == ids(history, "Arg") == [new]


def test_no_more_than_the_limit(either: History) -> None:
    made = [say(either, "same") for _ in range(5)]
    found = either.search("same", limit=3)
    assert [conversation.id for conversation, _ in found] == made[:1:-1]


def test_a_python_without_fts5_and_back(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with History(database) as history:
        first = say(history, "apples")
    with monkeypatch.context() as patch:
        patch.setattr(search_module, "_has_fts5", lambda connection: False)
        with History(database) as history:
            second = say(history, "more apples")
            history.delete(first)
            assert ids(history, "apples") == [second]
    with History(database) as history:
        assert ids(history, "apples") == [second]
        third = say(history, "apples again")
        assert ids(history, "apples") == [third, second]
