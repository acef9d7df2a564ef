"""A damaged database: one bad conversation keeps nobody from the others."""

import sqlite3
import tracemalloc
from pathlib import Path

import pytest

from llama_cpu.cli.main import main
from llama_cpu.history.check import check, save
from llama_cpu.history.rows import State
from llama_cpu.history.store import History
from llama_cpu.history.transfer import as_json, as_markdown


@pytest.fixture
def three(database: Path) -> Path:
    """A database with three conversations of a question and an answer, in one file."""
    with History(database) as history:
        for number in range(1, 4):
            new = history.create("model", {"seed": number}).id
            question = history.add_message(new, None, "user", f"Question {number}")
            answer = history.begin_answer(new, question.id, "model")
            history.save_answer(
                answer.id, f"Answer {number}", [1, 2], [0.1], [-0.1], State.COMPLETE
            )
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return database


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute(statement)
    connection.close()


# Of the second conversation, whose messages are 3 and 4.
BAD_ROWS = {
    "settings that are no JSON": "UPDATE conversations SET settings = '{' WHERE id = 2",
    "settings that are a list": "UPDATE conversations SET settings = '[1]' WHERE id = 2",
    "settings nested deeply": f"UPDATE conversations SET settings = '{'[' * 99_999}' WHERE id = 2",
    "text for a time": "UPDATE conversations SET updated = 'soon' WHERE id = 2",
    "a time beyond all dates": "UPDATE conversations SET updated = 9e99 WHERE id = 2",
    "bytes for a title": "UPDATE conversations SET title = x'ff00fe' WHERE id = 2",
    "a title that is not UTF-8": "UPDATE conversations SET title = CAST(x'ff' AS TEXT) "
    "WHERE id = 2",
    "text for the leaf": "UPDATE conversations SET leaf = 'last' WHERE id = 2",
    "token ids of odd length": "UPDATE messages SET token_ids = x'010203' WHERE id = 4",
    "text for token ids": "UPDATE messages SET token_ids = 'abcd' WHERE id = 4",
    "negative token ids": "UPDATE messages SET token_ids = x'ffffffff' WHERE id = 4",
    "times of odd length": "UPDATE messages SET token_seconds = x'01' WHERE id = 4",
    "runs that are no JSON": "UPDATE messages SET runs = '{' WHERE id = 4",
    "runs of text": """UPDATE messages SET runs = '[{"first": "a", "reused": 0, "computed": 0,
        "seconds": 0, "drafted": 0}]' WHERE id = 4""",
    "bytes for a text": "UPDATE messages SET text = x'ff' WHERE id = 4",
    "an unknown role": "UPDATE messages SET role = 'king' WHERE id = 4",
    "an unknown state": "UPDATE messages SET state = 'odd' WHERE id = 4",
    "text for the parent": "UPDATE messages SET parent = 'x' WHERE id = 4",
    "a parent that is gone": "UPDATE messages SET parent = 1 WHERE id = 4",
    "a parent that is a child": "UPDATE messages SET parent = 4 WHERE id = 3",
    "text for the time of a message": "UPDATE messages SET created = 'x' WHERE id = 4",
}


@pytest.mark.parametrize("statement", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row(statement: str, three: Path, tmp_path: Path, capsys) -> None:
    change(three, statement)
    with History(three) as history:
        assert sorted(each.id for each in history.conversations()) == [1, 2, 3]
        for id in (1, 2, 3):
            conversation, messages = history.tree(id)
            as_markdown(conversation, history.path(id))
            as_json(conversation, messages)
            history.duplicate(id)
        found = [each.id for each, _ in history.search("question")]
        assert {1, 2, 3} <= set(found)
        bad, messages = history.tree(2)
        assert bad.damage or any(message.damage for message in messages)
        assert not history.get(1).damage
    for verb in ("list", "show", "export"):
        words = [] if verb == "list" else ["2"]
        assert main(["history", verb, "--history", str(three), *words]) == 0
    capsys.readouterr()
    assert main(["history", "check", "--history", str(three)]) == 1
    printed = capsys.readouterr().out
    assert "conversation 2" in printed and "conversation 1" not in printed
    with History(tmp_path / "history-saved.db") as saved:
        assert len(saved.conversations()) == 6
        assert not any(each.damage for each in saved.conversations())
    assert not check(tmp_path / "history-saved.db").faults


def test_a_bad_conversation_is_marked_in_the_list(three: Path, capsys) -> None:
    change(three, BAD_ROWS["settings that are no JSON"])
    main(["history", "list", "--history", str(three)])
    printed = capsys.readouterr().out
    assert printed.count("damaged") == 1 and "Question 2 (damaged: settings)" in printed


def test_an_undamaged_database(three: Path, tmp_path: Path, capsys) -> None:
    assert main(["history", "check", "--history", str(three)]) == 0
    assert "3 conversations with 6 messages; nothing is damaged" in capsys.readouterr().out
    assert not (tmp_path / "history-saved.db").exists()


@pytest.mark.parametrize(
    "word",
    [
        b"TABLE conversations (",
        b"TABLE messages (",
        b"settings TEXT",
        b"tableconversations",
        b"TRIGGER text_",
    ],
)
def test_a_bad_byte_in_the_schema(word: bytes, three: Path, capsys) -> None:
    data = three.read_bytes()
    place = data.index(word) + 3
    three.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
    assert main(["history", "list", "--history", str(three)]) == 2
    assert "history check" in capsys.readouterr().err
    before = three.read_bytes()
    assert main(["history", "check", "--history", str(three)]) == 1
    assert "3 conversations with 6 messages" in capsys.readouterr().out
    assert three.read_bytes() == before
    with History(three.with_name("history-saved.db")) as saved:
        texts = [message.text for id in (1, 2, 3) for message in saved.path(id)]
    assert texts == [f"{kind} {number}" for number in (1, 2, 3) for kind in ("Question", "Answer")]


def test_damaged_pages_cost_only_what_is_on_them(three: Path) -> None:
    with History(three) as history:
        for _ in range(30):
            history.add_message(1, None, "user", "x" * 2000)
    size = int(sqlite3.connect(three).execute("PRAGMA page_size").fetchone()[0])
    data = bytearray(three.read_bytes())
    page = data.index(b"x" * 1000) // size * size
    data[page : page + size] = b"\xff" * size
    three.write_bytes(data)
    checked = check(three)
    assert any("damaged pages" in fault for fault in checked.faults)
    assert len(checked.conversations) == 3 and 6 < checked.message_count < 36
    with History(save(checked, three)) as saved:
        assert len(saved.conversations()) == 3


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(content: bytes, database: Path, capsys) -> None:
    database.write_bytes(content)
    assert main(["history", "check", "--history", str(database)]) in (0, 2)
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_many_alternatives_take_memory_in_proportion(history: History) -> None:
    count = 3000
    new = history.create().id
    with history.together():
        for number in range(count):
            history.add_message(new, None, "user", str(number))
    tracemalloc.start()
    siblings = history.siblings(new)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(siblings) == count and peak < 1000 * count
