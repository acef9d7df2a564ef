"""Opens the database file, migrates it to this version, and explains its errors."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from llama_cpu.errors import UserError
from llama_cpu.history.migrations import APPLICATION_ID, MIGRATIONS
from llama_cpu.history.row_reading import text_of
from llama_cpu.system.safe_reading import reason

BUSY_SECONDS = 10.0  # how long to wait for another process's transaction

_OTHER_FILE = "name another file with --history"
_DAMAGED = (
    "{path} is damaged; 'llama-cpu history check' saves what can be saved, or " + _OTHER_FILE + "."
)
_SENTENCES = {
    "file is not a database": f"{{path}} is not a database; {_OTHER_FILE}.",
    "malformed": _DAMAGED,
    "disk is full": "{path} could not be written because the disk is full; make room on it.",
    "readonly database": f"{{path}} is write-protected; make it writable, or {_OTHER_FILE}.",
    "unable to open": f"{{path}} cannot be opened; make sure that you may read and write it "
    f"and its folder, or {_OTHER_FILE}.",
    "locked": "{path} has been in use by another program for too long; close that and try again.",
}


def connect(path: Path | None) -> sqlite3.Connection:
    """Open the database at ``path``, create or migrate it; None: a database in memory.

    Raises UserError if the file cannot be opened, belongs to another program or to a newer version
    of this one, or is damaged; it is unchanged then.
    """
    if path is not None:
        _make_file(path)
    with explained(path):
        connection = sqlite3.connect(
            path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = text_of
            # FULL syncs the write-ahead log with every transaction. NORMAL would sync it only at
            # checkpoints, so that a power failure could lose minutes of a conversation. There is a
            # transaction for each message and twice a second during an answer, so the few
            # milliseconds do not matter.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: also flush the disk's own cache
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path)
            _use_write_ahead_log(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def true_path(path: Path) -> Path:
    """Resolve the path, so that all processes use one name for the file. Raises UserError."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise UserError(f"{path} is not a valid path ({reason(error)}); {_OTHER_FILE}.") from error


@contextlib.contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turn SQLite's errors about the file or the disk into a UserError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        own_bugs = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InternalError)
        if isinstance(error, own_bugs):
            raise
        for words, sentence in _SENTENCES.items():
            if words in str(error):
                raise UserError(sentence.format(path=_name(path))) from error
        raise UserError(
            f"{_name(path)} cannot be used ({error}); 'llama-cpu history check' saves what can be "
            f"saved, or {_OTHER_FILE}."
        ) from error
    except UnicodeDecodeError as error:  # the schema is damaged, and SQLite's message quotes it
        raise UserError(_DAMAGED.format(path=_name(path))) from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one transaction: all of it or nothing.

    It takes the write lock at once, as a transaction that begins by reading cannot wait for
    another process that writes.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


def _make_file(path: Path) -> None:
    """Create the file and its folder, readable only by the user.

    An existing file is not opened, because closing it would release the locks of other connections
    that this process may have to it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if not path.is_file():
            raise UserError(f"{path} is not a file; {_OTHER_FILE}.")
    except OSError as error:
        raise UserError(f"{path} cannot be created ({reason(error)}); {_OTHER_FILE}.") from error


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    with transaction(connection):  # another process may try the same
        version = _version(connection, path)
        if version == len(MIGRATIONS):
            return
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(connection: sqlite3.Connection, path: Path | None) -> int:
    """The number of migrations applied to the database; 0 if it is empty."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
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
    """Turn on the write-ahead log, so that readers and a writer do not wait for each other.

    If the file system does not support it, SQLite keeps using its rollback journal, which is as
    safe. The mode is stored in the file. SQLite's busy timeout does not apply to this change, so
    it is retried here while other processes have the file open.
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
