"""The database file: opened, brought to this program's version, and its errors in sentences."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from llama_cpu.errors import UserError
from llama_cpu.system.safe_reading import reason

# In the file's header, so that nothing is ever written into another program's database.
APPLICATION_ID = 0x6C6C616D
BUSY_SECONDS = 10.0  # how long to wait for another process's transaction

# Statements from one version to the next; what is released is never changed again. AUTOINCREMENT:
# an id that one window still has must not become another conversation's after a deletion.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            title TEXT NOT NULL,
            title_is_own INTEGER NOT NULL,
            model TEXT NOT NULL,
            settings TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            leaf INTEGER REFERENCES messages (id) ON DELETE SET NULL
        )""",
        "CREATE INDEX conversations_leaf ON conversations (leaf)",
        "CREATE INDEX conversations_updated ON conversations (updated)",
        "CREATE TABLE writers (token TEXT PRIMARY KEY)",
        # A parent is older than its children, so there are no cycles and ids are in order. It is
        # no cascade that deletes a branch: SQLite gives up on those at a depth of 1000.
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            parent INTEGER CHECK (parent < id),
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
            state TEXT NOT NULL CHECK (state IN ('complete', 'writing', 'stopped', 'cut')),
            writer TEXT REFERENCES writers (token),
            model TEXT NOT NULL,
            created REAL NOT NULL,
            text TEXT NOT NULL,
            token_ids BLOB NOT NULL,
            token_seconds BLOB NOT NULL,
            token_logprobs BLOB NOT NULL,
            UNIQUE (conversation, id),
            FOREIGN KEY (conversation, parent) REFERENCES messages (conversation, id),
            CHECK ((state = 'writing') = (writer IS NOT NULL))
        )""",
        "CREATE INDEX messages_parent ON messages (conversation, parent)",
        "CREATE INDEX messages_writer ON messages (writer) WHERE writer IS NOT NULL",
    ),
    ("ALTER TABLE messages ADD COLUMN runs TEXT NOT NULL DEFAULT '[]'",),
)

_OTHER_FILE = "name another file with --history"
_SENTENCES = {
    "file is not a database": f"{{path}} is not a database; {_OTHER_FILE}.",
    "malformed": "{path} is damaged; put a backup in its place, or " + _OTHER_FILE + ".",
    "disk is full": "{path} could not be written, as the disk is full; make room on it.",
    "readonly database": f"{{path}} is write-protected; make it writable, or {_OTHER_FILE}.",
    "unable to open": f"{{path}} cannot be opened; see that you may read and write it and its "
    f"folder, or {_OTHER_FILE}.",
    "locked": "{path} has been in use by another program for too long; close that and try again.",
}


def connect(path: Path | None) -> sqlite3.Connection:
    """An open database of this program's version, made where there is none; None: in memory.

    Raises UserError where the file cannot be opened or is of another program, of a newer version
    of this one, or damaged; it is then as it was.
    """
    if path is not None:
        _make_file(path)
    with explained(path):
        connection = sqlite3.connect(
            path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            # FULL syncs the write-ahead log with every transaction; NORMAL would sync it at
            # checkpoints only, and a power cut take minutes of a conversation along. A transaction
            # is a message sent or a second of an answer, so the few milliseconds do not matter.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: past the disk's own cache
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path)
            _use_write_ahead_log(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def true_path(path: Path) -> Path:
    """One name for all processes that open this file, however they got to it. Raises UserError."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"{path} cannot be a file ({reason(error)}); {_OTHER_FILE}.") from error


@contextlib.contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turn what SQLite says of the file or the disk into a UserError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        faults_of_ours = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InternalError)
        if isinstance(error, faults_of_ours):
            raise
        for words, sentence in _SENTENCES.items():
            if words in str(error):
                raise UserError(sentence.format(path=_name(path))) from error
        raise UserError(f"{_name(path)} cannot be used ({error}); {_OTHER_FILE}.") from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing. It is for writing from the start: one that began by reading
    could not wait for another process that writes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself takes it back when the disk is full
            connection.execute("ROLLBACK")
        raise


def _make_file(path: Path) -> None:
    """Make the file and its folder; what people write is for nobody else's eyes.

    A file that is there is not opened: closing it would take away the locks of another connection
    that this process may have to it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if not path.is_file():
            raise UserError(f"{path} is not a file; {_OTHER_FILE}.")
    except OSError as error:
        raise UserError(f"{path} cannot be made ({reason(error)}); {_OTHER_FILE}.") from error


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    with transaction(connection):  # another process may be at it, too
        version = _version(connection, path)
        if version == len(MIGRATIONS):
            return
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(connection: sqlite3.Connection, path: Path | None) -> int:
    """How many of the migrations the database has seen; 0: it is empty."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise UserError(f"{_name(path)} is another program's database; {_OTHER_FILE}.")
    if version > len(MIGRATIONS):
        raise UserError(
            f"{_name(path)} was written by a newer version of llama_cpu; use that one, or "
            f"{_OTHER_FILE}."
        )
    return version


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Readers and a writer then do not wait for each other. Where the file system cannot do it,
    SQLite goes on with its rollback journal, which is as safe.

    It stays so in the file. For this change SQLite does not wait while others have it open.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _name(path: Path | None) -> str:
    return "The history in memory" if path is None else str(path)
