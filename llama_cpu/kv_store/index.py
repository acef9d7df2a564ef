"""Where KV caches of conversations are on the disk: names, sizes and ages; nothing of what is in
them, so that no model's code is needed."""

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
    """One file. Others in the folder, with names of another kind, are none of ours."""

    path: Path
    mark: str  # of the database
    conversation: int
    nbytes: int
    changed: float  # seconds since 1970; when it was last written or used


def kept_path(folder: Path, database: Path, conversation: int) -> Path:
    """A conversation's file; ids are never used again in a database."""
    return folder / f"{mark_of(database)}-{conversation}.safetensors"


def mark_of(database: Path) -> str:
    """What tells the files of one database of conversations from another's."""
    return hashlib.sha256(os.fsencode(database)).hexdigest()[:16]


def kept_files(folder: Path) -> list[KVFileInfo]:
    """All there are, of all databases, the oldest first."""
    return sorted(_kept_files(folder), key=lambda kept: kept.changed)


def _kept_files(folder: Path) -> Iterator[KVFileInfo]:
    with contextlib.suppress(OSError):  # there is no folder yet
        for path in list(folder.glob(PATTERN)):
            match = _NAME.fullmatch(path.name)
            with contextlib.suppress(OSError):  # another process has removed it
                if match and not path.is_dir():
                    status = path.lstat()
                    yield KVFileInfo(path, match[1], int(match[2]), status.st_size, status.st_mtime)


def forget(database: Path | None, conversation: int) -> None:
    """Remove the file of a conversation that was deleted, where there is one."""
    if database:
        remove(kept_path(kv_folder(), database, conversation))


def remove(path: Path) -> bool:
    """Whether the file was there and is gone; on Windows another process may have it open."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
