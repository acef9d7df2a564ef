"""Which KV cache files are on disk: their names, sizes and ages.

Nothing here opens a file, so the command line can list and delete files without loading PyTorch.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_cpu.system.paths import kv_folder

PATTERN = "*.safetensors"
_NAME = re.compile(r"([0-9a-f]{16})-(\d{1,18})\.safetensors")


@dataclass(frozen=True)
class KVFileInfo:
    """One KV cache file. Files in the folder whose names have another form are ignored."""

    path: Path
    database_key: str  # see ``database_key``
    conversation_id: int
    nbytes: int
    changed: float  # seconds since 1970: when the file was last written or used


def file_path(folder: Path, database: Path, conversation_id: int) -> Path:
    """The file for a conversation. A database never reuses the id of a deleted conversation."""
    return folder / f"{database_key(database)}-{conversation_id}.safetensors"


def database_key(database: Path) -> str:
    """Return the part of a file's name that identifies the conversation database."""
    return hashlib.sha256(os.fsencode(database)).hexdigest()[:16]


def list_files(folder: Path) -> list[KVFileInfo]:
    """The files of all databases, oldest first; empty if the folder does not exist."""
    return sorted(_list_files(folder), key=lambda file: file.changed)


def _list_files(folder: Path) -> Iterator[KVFileInfo]:
    with contextlib.suppress(OSError):  # the folder does not exist yet
        for path in list(folder.glob(PATTERN)):
            match = _NAME.fullmatch(path.name)
            with contextlib.suppress(OSError):  # another process has just removed the file
                if match and not path.is_dir():
                    status = path.lstat()
                    yield KVFileInfo(path, match[1], int(match[2]), status.st_size, status.st_mtime)


def remove_file_of(database: Path | None, conversation_id: int) -> None:
    """Remove the KV cache file of a deleted conversation, if it has one.

    Does nothing for a database in memory (None).
    """
    if database:
        remove_file(file_path(kv_folder(), database, conversation_id))


def remove_file(path: Path) -> bool:
    """Remove a file and return whether that succeeded.

    It fails if the file does not exist or, on Windows, if another process has it open.
    """
    try:
        path.unlink()
    except OSError:
        return False
    return True
