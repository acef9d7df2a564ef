"""Which processes are writing answers, and whether they still run.

Each such process holds a lock on a file beside the database, which the operating system releases
however the process ends. Unlike process ids and start times, this works when ids are reused, when
the clock is changed, and across containers.
"""

import contextlib
import os
import sqlite3
import uuid
from io import FileIO
from pathlib import Path

from llama_cpu.errors import UserError
from llama_cpu.system.file_io import lock_file
from llama_cpu.system.safe_reading import reason


class Writers:
    """The writer tokens of this process and of other processes.

    ``database``: the resolved path of the database, the same for all processes; None for a
    database in memory, which has no other writers.
    """

    def __init__(self, connection: sqlite3.Connection, database: Path | None) -> None:
        self._connection = connection
        self._database = database
        self._own = ""  # until this process writes an answer
        self._file: FileIO | None = None

    def own(self) -> str:
        """Return this process's token and store it, in the caller's transaction.

        Raises UserError if the lock file cannot be created.
        """
        if not self._own:
            token = uuid.uuid4().hex
            if self._database:
                self._file = _locked_file(_path(self._database, token))
            self._own = token
        # Insert it every time, as an earlier transaction may have been rolled back.
        self._connection.execute("INSERT OR IGNORE INTO writers (token) VALUES (?)", (self._own,))
        return self._own

    def dead(self) -> list[str]:
        """Tokens of processes that no longer run."""
        rows = self._connection.execute("SELECT token FROM writers WHERE token <> ?", (self._own,))
        tokens = [row["token"] for row in rows]
        return [each for each in tokens if self._database and not _is_alive(self._database, each)]

    def cut_answers_of(self, tokens: list[str]) -> None:
        """Mark the unfinished answers of these writers as cut, in the caller's transaction."""
        for token in tokens:
            self._connection.execute(
                "UPDATE messages SET state = 'cut', writer = NULL WHERE writer = ?", (token,)
            )
            self._connection.execute("DELETE FROM writers WHERE token = ?", (token,))

    def cut_own_answers(self) -> None:
        """Mark the unfinished answers of this process as cut, in the caller's transaction."""
        if self._own:
            self.cut_answers_of([self._own])

    def close(self) -> None:
        """Remove this process's lock file."""
        if self._file and self._database:
            self._file.close()
            _path(self._database, self._own).unlink(missing_ok=True)
            self._file = None


def _path(database: Path, token: str) -> Path:
    return database.with_name(f"{database.name}.writer-{token}")


def _locked_file(path: Path) -> FileIO:
    try:
        file = path.open("xb", buffering=0)
    except OSError as error:
        raise UserError(
            f"{path} cannot be created ({reason(error)}); make sure that you may write to its "
            "folder, or name another file with --history."
        ) from error
    lock_file(file)
    return file


def _is_alive(database: Path, token: str) -> bool:
    """Whether a writer still runs; the lock file of a dead one is removed.

    A token is stored in the database only after its file was locked.
    """
    path = _path(database, token)
    with contextlib.suppress(OSError):
        if os.name != "nt":
            with path.open("r+b", buffering=0) as file:
                if not lock_file(file):
                    return True
        path.unlink()  # fails on Windows if a process has it open
    return path.exists()
