"""Conversations as Markdown and JSON, and JSON from strangers."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llama_cpu.errors import UserError
from llama_cpu.history.rows import Run, State, StoredMessage
from llama_cpu.history.store import History
from llama_cpu.history.transfer import as_json, as_markdown, import_json
from llama_cpu.system.text import cleaned

HOSTILE = "A [ 1,  2 ] \x1b[31m \x7f\x9b 你好 🙂\n\0"
RUNS = [Run(0, 3, 8, 0.25, 1, "repetition"), Run(2, 11, 1, 0.1)]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def conversation(history: History) -> int:
    """Two answers to the first question, a follow-up to the older one that was stopped."""
    new = history.create("SmolLM", {"temperature": 0.1, "stop": ["[ \n1 ]"]}).id
    system = history.add_message(new, None, "system", "Be kind.")
    question = history.add_message(new, system.id, "user", HOSTILE)
    first = history.begin_answer(new, question.id, "SmolLM")
    figures = [0.1, 0.5, math.pi]
    history.save_answer(
        first.id, "First", [1, 2], figures, [-0.1, -math.nan, -3.5], State.COMPLETE, RUNS
    )
    second = history.begin_answer(new, question.id, "Llama")
    history.save_answer(second.id, "Second", [3], state=State.CUT)
    follow_up = history.add_message(new, first.id, "user", "And?")
    third = history.begin_answer(new, follow_up.id, "SmolLM")
    history.save_answer(third.id, "\nThat", [4], state=State.STOPPED)
    return new


def exported(history: History, conversation: int) -> dict[str, Any]:
    return json.loads(as_json(*history.tree(conversation)))


def comparable(messages: list[StoredMessage]) -> list[dict[str, Any]]:
    """Ids by their order, figures by their digits, as NaN is not equal to itself."""
    order = {message.id: number for number, message in enumerate(messages)}
    return [
        {
            **vars(message),
            "id": order[message.id],
            "conversation_id": 0,
            "parent": None if message.parent is None else order[message.parent],
            "token_seconds": str(message.token_seconds),
            "token_logprobs": str(message.token_logprobs).replace("-nan", "nan"),
            "runs": list(message.runs),
        }
        for message in messages
    ]


def test_what_is_exported_comes_back_the_same(
    history: History, conversation: int, tmp_path: Path
) -> None:
    file = tmp_path / "export.json"
    file.write_text(as_json(*history.tree(conversation)), encoding="utf-8")
    with History(None) as other:
        other.create()
        copy = import_json(other, file)
        old, messages = history.tree(conversation)
        new, copied = other.tree(copy.id)
        clean = [replace(each, text=cleaned(each.text)) for each in messages]
        assert comparable(copied) == comparable(clean) != comparable(messages)
        assert replace(new, id=old.id, leaf=old.leaf) == replace(old, title=cleaned(old.title))
        assert [each.text for each in other.path(new.id)] == [
            cleaned(each.text) for each in history.path(conversation)
        ]
        assert other.siblings(new.id).keys() == {copied[2].id, copied[3].id}
        again = as_json(*other.tree(new.id))
        assert len(json.loads(again)["messages"]) == 6
        assert other.search("second")[0][0].id == new.id


def test_the_json_is_what_its_description_says(history: History, conversation: int) -> None:
    text = as_json(*history.tree(conversation))
    assert not set(text) & set(map(chr, [*range(10), *range(11, 32), *range(0x7F, 0xA0)]))
    assert "你好 🙂" in text
    values = json.loads(text, parse_constant=pytest.fail)
    assert (values["format"], values["version"]) == ("llama_cpu conversation", 1)
    assert values["messages"][1]["text"] == HOSTILE
    assert values["messages"][2]["token_seconds"] == [0.100000001, 0.5, 3.14159274]
    assert values["messages"][2]["token_logprobs"] == [-0.100000001, None, -3.5]
    assert values["messages"][2]["runs"][1] == {
        "first": 2, "reused": 11, "computed": 1, "seconds": 0.1, "drafted": 0, "ended": ""
    }  # fmt: skip
    assert values["leaf"] == values["messages"][-1]["id"]
    assert values["settings"] == {"temperature": 0.1, "stop": ["[ \n1 ]"]}
    assert len(text.splitlines()) < 30


def test_an_answer_being_written_is_exported_as_cut(history: History) -> None:
    new = history.create().id
    history.begin_answer(new, history.add_message(new, None, "user", "Hi").id, "model")
    assert [each["state"] for each in exported(history, new)["messages"]] == ["complete", "cut"]
    assert "being written" in as_markdown(history.get(new), history.path(new))


def test_markdown_reads_like_the_conversation(history: History, conversation: int) -> None:
    history.rename(conversation, "A title")
    text = as_markdown(history.get(conversation), history.path(conversation))
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "# A title"
    assert lines[1].startswith("*SmolLM, 20") and lines[1].endswith("*")
    assert lines[2:] == [
        "## System",
        "Be kind.",
        "## You",
        "A [ 1,  2 ] ␛[31m ␡� 你好 🙂",
        "␀",
        "## Assistant",
        "First",
        "## You",
        "And?",
        "## Assistant",
        "That",
        "*(stopped here)*",
    ]


def message(**values: Any) -> Change:
    return lambda whole: whole["messages"][1].update(values)


def whole(**values: Any) -> Change:
    return lambda whole: whole.update(values)


BAD: dict[str, Change] = {
    "format": whole(format="another"),
    "version": whole(version="1"),
    "newer": whole(version=2),
    "title": whole(title=None),
    "title a number": whole(title=7),
    "title a surrogate": whole(title="\ud83d"),
    "own": whole(title_is_own=1),
    "pinned": whole(pinned=1),
    "model": whole(model=[]),
    "settings": whole(settings=[]),
    "settings large": whole(settings={"a": "x" * (1 << 20)}),
    "settings a surrogate": whole(settings={"a": "\udc00"}),
    "settings infinite": whole(settings={"a": math.inf}),
    "created": whole(created=-1),
    "created not a number": whole(created=math.nan),
    "updated far off": whole(updated=1e300),
    "updated huge": whole(updated=10**400),
    "leaf": whole(leaf=99),
    "leaf a flag": whole(leaf=True),
    "leaf a list": whole(leaf=[1]),
    "messages": whole(messages={}),
    "no messages": whole(messages=[]),
    "no objects": whole(messages=[1]),
    "id": message(id="2"),
    "id 0": message(id=0),
    "id large": message(id=1 << 70),
    "id infinite": message(id=math.inf),
    "id twice": message(id=1),
    "parent itself": message(parent=2),
    "parent later": message(parent=3),
    "parent a flag": message(parent=True),
    "parent an object": message(parent={}),
    "role": message(role="tool"),
    "role a list": message(role=["user"]),
    "text": message(text=None),
    "text a surrogate": message(text="a\ud800"),
    "state": message(state="writing"),
    "state an object": message(state={}),
    "message's model": message(model=3),
    "message's time": message(created="today"),
    "ids": message(token_ids="12"),
    "ids negative": message(token_ids=[-1]),
    "ids large": message(token_ids=[1 << 31]),
    "ids flags": message(token_ids=[True]),
    "ids fractions": message(token_ids=[1.0]),
    "seconds": message(token_seconds=[[]]),
    "seconds infinite": message(token_seconds=[math.inf]),
    "logprobs": message(token_logprobs=["-1"]),
    "runs": message(runs={}),
    "runs without figures": message(runs=[{}]),
    "runs negative": message(runs=[{**asdict(RUNS[0]), "first": -1}]),
    "runs infinite": message(runs=[{**asdict(RUNS[0]), "seconds": math.inf}]),
    "logprobs huge": message(token_logprobs=[-(10**400)]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_field_is_one_sentence_and_nothing_is_added(
    history: History, tmp_path: Path, name: str
) -> None:
    new = history.create().id
    user = history.add_message(new, None, "user", "Hi")
    history.save_answer(history.begin_answer(new, user.id, "m").id, "Ho", [1], state=State.COMPLETE)
    history.add_message(new, user.id, "user", "Hello")
    values = exported(history, new)
    BAD[name](values)
    file = tmp_path / "export.json"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        import_json(history, file)
    sentence = str(caught.value)
    assert str(file) in sentence and "\n" not in sentence and len(sentence) < 300 + len(str(file))
    assert len(history.conversations()) == 1


@pytest.mark.parametrize("key", ["format", "version", "title", "created", "settings", "messages"])
def test_a_missing_field(history: History, conversation: int, tmp_path: Path, key: str) -> None:
    values = exported(history, conversation)
    del values[key]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"export\.json"):
        import_json(history, file)


def test_a_file_of_before_there_were_runs(
    history: History, conversation: int, tmp_path: Path
) -> None:
    values = exported(history, conversation)
    for each in values["messages"]:
        del each["runs"]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(values))
    copy = import_json(history, file)
    assert all(not each.runs for each in history.path(copy.id))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'{"a": ' * 100_000, b"# Title"],
    ids=lambda data: ascii(data[:8]),
)
def test_what_is_not_json(history: History, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "export.json"
    file.write_bytes(data)
    with pytest.raises(UserError, match="JSON"):
        import_json(history, file)


def test_files_that_are_not_there(history: History, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="copy of the export"):
            import_json(history, path)
