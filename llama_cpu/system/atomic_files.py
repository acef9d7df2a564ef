"""New files that appear under their names only when they are whole and on the disk."""

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from io import FileIO
from pathlib import Path
from threading import Lock, Thread
from typing import cast

from llama_cpu.errors import UserError
from llama_cpu.system.file_io import lock_file, require_replaceable, sync_folder
from llama_cpu.system.safe_reading import reason


class AtomicFiles:
    """Files of one folder that are written beside those they replace.

        with AtomicFiles(folder) as atomic_files:
            file = atomic_files.open("merged.pth")
            ...
            atomic_files.publish()

    Where the folder is not there yet, all of it is written beside its place and appears at once.
    However the block is left before ``publish``, nothing of them remains. A process that is
    killed outright leaves ``NAME.part-PID``, which ``remove_leftovers`` finds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()  # a link that leads nowhere yet could not be replaced
        self.place = self.folder if self.folder.exists() else _part(self.folder)
        self._paths: dict[str, Path] = {}  # where they are until they have their names
        self._files: dict[str, FileIO] = {}
        self._in_use = Lock()  # by the thread that publishes, or the one that leaves the block
        self._left = False
        self._sync_folder = sync_folder

    def __enter__(self) -> "AtomicFiles":
        return self

    def __exit__(self, *_: object) -> None:
        interrupt: BaseException | None = None
        while not self._left:
            try:
                self._leave()
            except (KeyboardInterrupt, SystemExit) as error:  # Ctrl+C, once more
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _leave(self) -> None:
        """Delete what was not published, once nothing is being published. May be done again."""
        with self._in_use:
            for file in self._files.values():
                file.close()
            for path in self._paths.values():
                path.unlink(missing_ok=True)
            if self._is_new_folder:
                with contextlib.suppress(OSError):  # never made, or got its name
                    self.place.rmdir()
            self._left = True

    @property
    def _is_new_folder(self) -> bool:
        return self.place != self.folder

    def open(self, name: str, private: bool = False) -> FileIO:
        """An empty file, unbuffered, for reading and writing; ``private``: for nobody else's eyes.

        Raises OSError, and UserError where it could not take the place of one that is there:
        better now than when all is written.
        """
        _require_replaceable(self.folder / name)
        if self._is_new_folder:
            self.place.mkdir(parents=True, exist_ok=True)
        # Remembered before it is there: Ctrl+C may come as soon as it is.
        path = self.place / name if self._is_new_folder else _part(self.place / name)
        self._paths[name] = path
        try:
            if private:
                path.touch(0o600, exist_ok=False)
            mode = "r+b" if private else "x+b"
            file = self._files[name] = cast(FileIO, path.open(mode, buffering=0))
        except FileExistsError:  # of a process with the same number, in another container
            del self._paths[name]
            raise
        lock_file(file)  # so that remove_leftovers of another process lets it be
        return file

    def free_bytes(self) -> int:
        """Room on the disk that the files will be on. Raises OSError."""
        folders = (self.place, *self.place.parents)
        return shutil.disk_usage(next(path for path in folders if path.exists())).free

    def sync(self) -> None:
        """Have all that was written on the disk before this returns. Raises OSError."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def publish(self, sync: bool = True) -> None:
        """Give the files their names.

        ``sync``: once all of them are on the disk. Without it a power cut may leave a file of that
        name that is not whole, which its reader must be able to tell.
        The file opened last must be one that nobody reads the others without. Raises OSError
        where nothing was changed, UserError where some files were replaced and others were not.
        """
        self._sync_folder = sync_folder if sync else _leave_to_the_system
        if sync:
            self.sync()
        # Ctrl+C interrupts the main thread only, at any line of these. What the other one has
        # begun it finishes, as __exit__ waits for it; what it has not, it leaves alone.
        result: Future[None] = Future()
        Thread(target=self._publish, args=(result,)).start()
        result.result()

    def _publish(self, result: "Future[None]") -> None:
        with self._in_use:
            if self._left:
                return
            try:
                (self._publish_folder if self._is_new_folder else self._publish_files)()
            except BaseException as error:
                result.set_exception(error)
            else:
                result.set_result(None)

    def _publish_folder(self) -> None:
        self._sync_folder(self.place)
        for file in self._files.values():
            file.close()  # Windows renames no folder with an open file in it
        self.place.rename(self.folder)
        self._paths.clear()
        self._sync_folder(self.folder.parent)

    def _publish_files(self) -> None:
        """A single file is replaced at once. Before several are, the old file of the last one's
        name is taken away, and the new one comes when all others are there: whenever the process
        is killed, the folder is the old one, the new one, or lacks that file and is refused. No
        mix of old and new files is ever whole. The syncs keep that order in a power cut, too.
        """
        *others, last = self._paths
        aside = _part(self.folder / f"{last}.old")
        if others and (self.folder / last).exists():
            (self.folder / last).replace(aside)
            self._sync_folder(self.folder)
        replaced = False
        try:
            for name in others:
                self._replace(name)
                replaced = True
            self._sync_folder(self.folder)
            self._replace(last)
            self._sync_folder(self.folder)
        except OSError as error:
            if replaced:
                raise UserError(
                    f"{error.filename} could not get its name ({reason(error)}), though other "
                    f"files of {self.folder} were replaced; put that right and run this again."
                ) from error
            if aside.exists():
                aside.replace(self.folder / last)
            raise
        finally:
            aside.unlink(missing_ok=True)

    def _replace(self, name: str) -> None:
        self._files[name].close()  # Windows renames no open file
        self._paths[name].replace(self.folder / name)
        del self._paths[name]


def write_text(path: Path, text: str, replace: bool = False) -> None:
    """A whole file, or none. Raises UserError where there is one and it is not to be replaced."""
    try:
        if path.exists() and not replace:
            raise UserError(f"{path} is there already; name another file.")
        with AtomicFiles(path.parent) as atomic_files:
            file = atomic_files.open(path.name)
            if path.exists():
                shutil.copymode(path, str(file.name))
            data = memoryview(text.encode())
            while data:
                data = data[file.write(data) :]
            atomic_files.publish()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        message = f"{path} cannot be written ({reason(error)}); name another file."
        raise UserError(message) from error


def _leave_to_the_system(folder: Path) -> None:
    """Names get to the disk some seconds later."""


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part-{os.getpid()}")


def _require_replaceable(path: Path) -> None:
    try:
        require_replaceable(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be replaced ({reason(error)}): it is write-protected, or another "
            "program has it open, for instance a chat; put that right first."
        ) from error


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Delete what processes that were killed left unpublished: files of these names (or
    patterns) in the folder, or all of a folder that was to become this one.
    """
    names = list(names)
    folder = folder.resolve()
    for name in names:
        for path in (*_parts(folder, name), *_parts(folder, f"{name}.old")):
            _remove_if_unused(path)
    for unfinished in _parts(folder.parent, glob.escape(folder.name)):
        for name in names:
            for path in unfinished.glob(name):
                _remove_if_unused(path)
        with contextlib.suppress(OSError):  # in use, or something of the user's is in it
            unfinished.rmdir()


def _parts(folder: Path, name: str) -> Iterator[Path]:
    for path in folder.glob(f"{name}.part-*"):
        if re.fullmatch(r".+\.part-\d+", path.name):
            yield path


def _remove_if_unused(path: Path) -> None:
    try:
        with path.open("r+b", buffering=0) as file:
            unused = lock_file(cast(FileIO, file))
        if unused:
            path.unlink()
    except OSError:  # Windows: still open in the process that writes it
        pass
