"""The file: its versions, and what can be wrong with it."""

import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from llama_cpu.errors import UserError
from llama_cpu.history import database as database_module
from llama_cpu.history.migrations import APPLICATION_ID, MIGRATIONS
from llama_cpu.history.store import History

# As version 1 made it, to the letter; this is not to be changed with the program.
VERSION_1 = f"""
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, title_is_own INTEGER NOT NULL,
    model TEXT NOT NULL, settings TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    leaf INTEGER REFERENCES messages (id) ON DELETE SET NULL);
CREATE TABLE writers (token TEXT PRIMARY KEY);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    parent INTEGER CHECK (parent < id),
    role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
    state TEXT NOT NULL CHECK (state IN ('complete', 'writing', 'stopped', 'cut')),
    writer TEXT REFERENCES writers (token), model TEXT NOT NULL, created REAL NOT NULL,
    text TEXT NOT NULL, token_ids BLOB NOT NULL, token_seconds BLOB NOT NULL,
    token_logprobs BLOB NOT NULL, UNIQUE (conversation, id),
    FOREIGN KEY (conversation, parent) REFERENCES messages (conversation, id),
    CHECK ((state = 'writing') = (writer IS NOT NULL)));
INSERT INTO conversations VALUES (3, 'Old', 0, 'model', '{{"seed": 1}}', 1e9, 1e9, NULL);
INSERT INTO writers VALUES ('00ff');
INSERT INTO messages VALUES (7, 3, NULL, 'user', 'complete', NULL, '', 1e9, 'Hello', x'', x'', x'');
INSERT INTO messages VALUES
    (8, 3, 7, 'assistant', 'writing', '00ff', 'model', 1e9, 'Good', x'01020000', x'0000803f', x'');
UPDATE conversations SET leaf = 8;
PRAGMA user_version = 1;
PRAGMA application_id = {APPLICATION_ID};
"""


def make(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def pragma(path: Path, name: str) -> object:
    connection = sqlite3.connect(path)
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    connection.close()
    return value


def test_a_database_of_version_1_is_read_and_written_on(database: Path) -> None:
    make(database, VERSION_1)
    with History(database) as history:
        path = history.path(3)
        assert [(each.text, each.state.value) for each in path] == [
            ("Hello", "complete"),
            ("Good", "cut"),
        ]
        assert list(path[1].token_ids) == [0x201] and list(path[1].token_seconds) == [1.0]
        assert path[1].runs == ()
        assert history.get(3).settings == {"seed": 1}
        assert [conversation.id for conversation, _ in history.search("hello")] == [3]
        history.add_message(3, 8, "user", "And now?")
        assert history.path(3)[-1].id > 8
    assert pragma(database, "user_version") == len(MIGRATIONS)
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "integrity_check") == "ok"


def test_a_migration_is_done_once_and_whole(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(database, VERSION_1)
    colour = "ALTER TABLE conversations ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'"
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS, (colour, "no such statement")))
        with pytest.raises(UserError):
            History(database)
    assert pragma(database, "user_version") == 1
    after = len(MIGRATIONS) + 1
    monkeypatch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS, (colour,)))
    for _ in range(2):
        with History(database) as history:
            (row,) = history._connection.execute("SELECT colour FROM conversations").fetchall()
            assert row["colour"] == "red"
            assert history.get(3).title == "Old"
    assert pragma(database, "user_version") == after


def test_a_newer_version_is_refused(database: Path) -> None:
    History(database).close()
    make(database, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UserError, match="newer version of llama_cpu"):
        History(database)
    assert pragma(database, "user_version") == len(MIGRATIONS) + 1


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE bookmarks (url TEXT)",
        "PRAGMA user_version = 75",
        "PRAGMA application_id = 1; CREATE TABLE bookmarks (url TEXT)",
    ],
)
def test_another_programs_database_is_left_alone(database: Path, script: str) -> None:
    make(database, script)
    before = database.read_bytes()
    with pytest.raises(UserError, match=r"another program's.*--history"):
        History(database)
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    "data", [b"Dear diary, " * 400, b"\0" * 5000, b"SQLite format 3\0" + b"x" * 4080]
)
def test_what_is_no_database_is_left_alone(database: Path, data: bytes) -> None:
    database.write_bytes(data)
    with pytest.raises(UserError, match=r"history\.db .*--history"):
        History(database)
    assert database.read_bytes() == data


def test_damage_is_one_sentence_and_nothing_is_overwritten(database: Path) -> None:
    with History(database) as history:
        new = history.create().id
        parent = None
        for number in range(50):
            parent = history.add_message(new, parent, "user", f"{number} " * 500).id
    data = bytearray(database.read_bytes())
    for page in range(1, len(data) // 4096):
        data[4096 * page + 50 : 4096 * page + 150] = b"\xff" * 100
        data[4096 * page : 4096 * page + 8] = b"\xff" * 8
    database.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged.*--history"), History(database) as history:
        history.path(new)
    assert database.read_bytes() == data


def test_an_empty_file_is_a_new_database(database: Path) -> None:
    database.touch()
    with History(database) as history:
        assert history.conversations() == []


def test_a_missing_folder_is_made_for_the_user_only(tmp_path: Path) -> None:
    database = tmp_path / "new" / "folder" / "history.db"
    with History(database) as history:
        history.create()
        if os.name != "nt":
            assert stat.S_IMODE(database.stat().st_mode) == 0o600
            assert stat.S_IMODE(Path(f"{database}-wal").stat().st_mode) == 0o600
    assert [path.name for path in database.parent.iterdir()] == ["history.db"]


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "history.db", tmp_path, Path("zero\0byte")):
        with pytest.raises(UserError, match="--history"):
            History(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="is not a file"):
            History(tmp_path / "pipe")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="needs permissions that hold"
)
def test_write_protection(database: Path) -> None:
    with History(database) as history:
        new = history.create(title="Kept")
    database.chmod(0o400)
    with History(database) as history:
        assert history.conversations() == [new]
        with pytest.raises(UserError, match="write-protected"):
            history.create()


def test_what_cannot_be_written_is_one_sentence_and_can_be_tried_again(history: History) -> None:
    new = history.create().id
    user = history.add_message(new, None, "user", "Question")
    begun = history.begin_answer(new, user.id, "model")
    history.save_answer(begun.id, "Good", [1])
    execute = history._connection.execute
    (pages,) = execute("PRAGMA page_count").fetchone()
    execute(f"PRAGMA max_page_count = {pages}")
    long = "word " * 100_000
    with pytest.raises(UserError, match=r"disk is full.*make room"):
        history.save_answer(begun.id, long, [1, 2])
    with pytest.raises(UserError, match="disk is full"):
        history.add_message(new, user.id, "user", long)
    assert [each.text for each in history.path(new)] == ["Question", "Good"]
    execute("PRAGMA max_page_count = 1000000")
    execute("PRAGMA query_only = ON")
    with pytest.raises(UserError, match="write-protected"):
        history.save_answer(begun.id, long, [1, 2])
    execute("PRAGMA query_only = OFF")
    history.save_answer(begun.id, long, [1, 2])
    assert history.path(new)[-1].text == long


def test_a_lock_that_is_never_given_back(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    with History(database) as history:
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="in use by another program"):
            history.create()
        other.execute("ROLLBACK")
        other.close()
        assert history.create().id == 1


def test_every_transaction_is_synced(history: History) -> None:
    assert history._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert history._connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
