"""Several processes on one database, some of which are killed."""

import random
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from llama_cpu.errors import UserError
from llama_cpu.history.rows import Gone, State
from llama_cpu.history.store import History
from tests.history.conftest import Start

# Writes an answer word by word and says when each is on the disk.
WRITE = """
import time
new = int(sys.argv[2])
pause = float(sys.argv[3])
user = history.add_message(new, None, "user", "Question of the process")
begun = history.begin_answer(new, user.id, "model")
print(begun.id, flush=True)
for number in range(1, 100_000):
    history.save_answer(begun.id, "word " * number, range(number), [0.5] * number)
    print(number, flush=True)
    time.sleep(pause)
"""


def integrity(database: Path) -> str:
    connection = sqlite3.connect(database)
    for index in ("text_index", "title_index"):
        # 1: compared with the text, too.
        connection.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")
    (result,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    return result


def writers_files(database: Path) -> list[Path]:
    return list(database.parent.glob("*.writer-*"))


@pytest.mark.parametrize("seed", range(10))
def test_killed_while_it_saves_an_answer(database: Path, start: Start, seed: int) -> None:
    chance = random.Random(seed)
    with History(database) as history:
        new = history.create().id
    pause = 0.2 if seed % 2 else 0.0  # 0: it is nearly always within a transaction
    process = start(WRITE, new, pause)
    assert process.stdout
    answer = int(process.stdout.readline())
    for _ in range(chance.randrange(5) if pause else chance.randrange(200)):
        process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):  # it goes on until it is killed
        process.wait(chance.random() * (pause or 0.02))
    process.kill()
    acknowledged = [int(line) for line in process.communicate()[0].split()]

    with History(database) as history:
        question, cut = history.path(new)
        assert question.text == "Question of the process"
        assert (cut.id, cut.state) == (answer, State.CUT)
        saved = len(cut.token_ids)
        assert saved >= max(acknowledged, default=0)
        assert cut.text == "word " * saved and list(cut.token_seconds) == [0.5] * saved
        assert history.continue_answer(answer).state is State.WRITING
        history.save_answer(answer, cut.text + "end", cut.token_ids, state=State.COMPLETE)
        assert [found.message_id for _, found in history.search("end")] == [answer]
    assert integrity(database) == "ok"
    assert not writers_files(database)


def test_what_a_running_process_writes_is_not_cut(
    history: History, database: Path, start: Start
) -> None:
    new = history.create().id
    process = start(WRITE, new, 0.05)
    assert process.stdout
    answer = int(process.stdout.readline())
    process.stdout.readline()  # the first word is saved
    (mark,) = writers_files(database)
    with History(database) as third:
        for other in (history, third):
            assert other.path(new)[-1].state is State.WRITING
            with pytest.raises(UserError, match="another window"):
                other.continue_answer(answer)
            with pytest.raises(Gone):
                other.save_answer(answer, "theirs", [])
            copy = other.duplicate(new)
            assert other.path(copy.id)[-1].state is State.CUT
    if hasattr(signal, "SIGSTOP"):  # a laptop's lid was closed, say
        process.send_signal(signal.SIGSTOP)
        assert history.path(new)[-1].state is State.WRITING
    process.kill()
    process.wait()
    assert mark.exists()
    assert history.path(new)[-1].state is State.CUT
    assert not mark.exists()
    assert history.continue_answer(answer).text.startswith("word")


def test_an_answer_that_nobody_ended_is_cut_at_the_end(database: Path) -> None:
    with History(database) as history, History(database) as other:
        new = history.create().id
        user = history.add_message(new, None, "user", "Question")
        history.begin_answer(new, user.id, "model")
        assert other.path(new)[-1].state is State.WRITING
        history.close()
        assert other.path(new)[-1].state is State.CUT
        assert not writers_files(database)


def test_a_conversation_deleted_in_another_window(database: Path) -> None:
    with History(database) as history, History(database) as other:
        new = history.create().id
        user = history.add_message(new, None, "user", "Question")
        begun = history.begin_answer(new, user.id, "model")
        other.delete(new)
        other.add_message(other.create().id, None, "user", "Another question")
        with pytest.raises(Gone, match="another window"):
            history.save_answer(begun.id, "text", [1])
        with pytest.raises(Gone):
            history.add_message(new, begun.id, "user", "more")
        (left,) = history.conversations()
        assert [each.text for each in history.path(left.id)] == ["Another question"]


def test_processes_that_write_at_once(history: History, database: Path, start: Start) -> None:
    """Each in a conversation of its own, and all in one."""
    shared = history.create(title="shared").id
    code = """
own = history.create(title=sys.argv[2]).id
parent = None
for number in range(30):
    parent = history.add_message(own, parent, "user", f"{sys.argv[2]} {number}").id
    first = history.add_message(int(sys.argv[3]), None, "user", f"{sys.argv[2]} {number}")
    begun = history.begin_answer(int(sys.argv[3]), first.id, "model")
    history.save_answer(begun.id, "An answer", [1], state=State.COMPLETE)
history.close()
"""
    processes = [start(code, name, shared) for name in ("one", "two", "three")]
    for number in range(30):
        history.add_message(shared, None, "user", f"zero {number}")
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    said = {f"{name} {number}" for name in ("one", "two", "three") for number in range(30)}
    _, messages = history.tree(shared)
    questions = [each.text for each in messages if each.role == "user"]
    assert set(questions) == said | {f"zero {number}" for number in range(30)}
    assert len(messages) == 4 * 30 + 3 * 30
    assert all(each.state is State.COMPLETE for each in messages)
    for conversation in history.conversations():
        if conversation.id != shared:
            path = [each.text for each in history.path(conversation.id)]
            assert path == [f"{conversation.title} {number}" for number in range(30)]
    assert integrity(database) == "ok"


def test_processes_that_make_the_database_at_once(database: Path, start: Start) -> None:
    code = "history.create(title=sys.argv[2]); history.close()"
    processes = [start(code, number) for number in range(6)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 6
    with History(database) as history:
        assert sorted(each.title for each in history.conversations()) == list("012345")
    assert integrity(database) == "ok"
