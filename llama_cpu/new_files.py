"""New files that appear under their names only when they are whole and on the disk."""

import os
import re
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import cast

from llama_cpu.machine import lock_file, sync_folder


class NewFiles:
    """Files of one folder that are written beside those they replace.

        with NewFiles(folder) as new_files:
            file = new_files.open("merged.pth")
            ...
            new_files.publish()

    However the block is left before ``publish``, nothing of them remains. A process that is
    killed outright leaves ``NAME.part-PID``, which ``remove_leftovers`` finds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, FileIO] = {}

    def __enter__(self) -> "NewFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
            Path(str(file.name)).unlink(missing_ok=True)
        self._files.clear()

    def open(self, name: str) -> FileIO:
        """An empty file, unbuffered, for reading and writing. Raises OSError."""
        path = self.folder / f"{name}.part-{os.getpid()}"
        file = cast(FileIO, path.open("x+b", buffering=0))
        self._files[name] = file
        lock_file(file)  # so that remove_leftovers of another process lets it be
        return file

    def sync(self) -> None:
        """Have all that was written on the disk before this returns. Raises OSError."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Give the files their names, in the order in which they were opened. Raises OSError."""
        self.sync()
        for name, file in list(self._files.items()):
            file.close()  # Windows renames no open file
            Path(str(file.name)).replace(self.folder / name)
            del self._files[name]
        sync_folder(self.folder)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Delete what processes that were killed left unpublished under these names (or patterns)."""
    for name in names:
        for path in folder.glob(f"{name}.part-*"):
            if re.fullmatch(r".+\.part-\d+", path.name):
                _remove_if_unused(path)


def _remove_if_unused(path: Path) -> None:
    try:
        with path.open("r+b", buffering=0) as file:
            unused = lock_file(cast(FileIO, file))
        if unused:
            path.unlink()
    except OSError:  # Windows: still open in the process that writes it
        pass
