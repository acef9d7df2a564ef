"""Who writes answers, and whether that process still runs.

Each process that does keeps a file beside the database locked; the system lets go of it however
the process ends. So neither a process number that is used again, nor a clock that is set, nor a
container with numbers of its own can mislead anyone.
"""

import contextlib
import os
import sqlite3
import uuid
from io import FileIO
from pathlib import Path
from typing import cast

from llama_cpu.errors import UserError
from llama_cpu.system.file_io import lock_file
from llama_cpu.system.safe_reading import reason


class Writers:
    """This process's mark, and a look at the others'.

    ``database``: its path, the same for all processes; None: it is in memory, where there are no
    others.
    """

    def __init__(self, connection: sqlite3.Connection, database: Path | None) -> None:
        self._connection = connection
        self._database = database
        self._own = ""  # until this process writes an answer
        self._file: FileIO | None = None

    def own(self) -> str:
        """This process's token, to be stored in the caller's transaction. Raises UserError."""
        if not self._own:
            token = uuid.uuid4().hex
            if self._database:
                self._file = _locked_file(_path(self._database, token))
            self._own = token
        # Each time, as the transaction before may not have come to its end.
        self._connection.execute("INSERT OR IGNORE INTO writers (token) VALUES (?)", (self._own,))
        return self._own

    def dead(self) -> list[str]:
        """Tokens of processes that are no more."""
        rows = self._connection.execute("SELECT token FROM writers WHERE token <> ?", (self._own,))
        tokens = [row["token"] for row in rows]
        return [each for each in tokens if self._database and not _is_alive(self._database, each)]

    def cut_answers_of(self, tokens: list[str]) -> None:
        """In the caller's transaction: what these wrote will not be written on."""
        for token in tokens:
            self._connection.execute(
                "UPDATE messages SET state = 'cut', writer = NULL WHERE writer = ?", (token,)
            )
            self._connection.execute("DELETE FROM writers WHERE token = ?", (token,))

    def cut_own_answers(self) -> None:
        """In the caller's transaction."""
        if self._own:
            self.cut_answers_of([self._own])

    def close(self) -> None:
        if self._file and self._database:
            self._file.close()
            _path(self._database, self._own).unlink(missing_ok=True)
            self._file = None


def _path(database: Path, token: str) -> Path:
    return database.with_name(f"{database.name}.writer-{token}")


def _locked_file(path: Path) -> FileIO:
    try:
        file = cast(FileIO, path.open("xb", buffering=0))
    except OSError as error:
        raise UserError(
            f"{path} cannot be made ({reason(error)}); see that you may write to its folder, or "
            "name another file with --history."
        ) from error
    lock_file(file)
    return file


def _is_alive(database: Path, token: str) -> bool:
    """Whether a writer still runs; a dead one's file is taken away.

    A token is in the database only after its file was locked.
    """
    path = _path(database, token)
    with contextlib.suppress(OSError):
        if os.name != "nt":
            with path.open("r+b", buffering=0) as file:
                if not lock_file(cast(FileIO, file)):
                    return True
        path.unlink()  # Windows deletes no file that is open in a process
    return path.exists()
