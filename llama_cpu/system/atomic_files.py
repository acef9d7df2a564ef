"""Files that appear under their names only once they are complete and on disk."""

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
    """Writes files of one folder, and puts all of them in place at the end.

        with AtomicFiles(folder) as atomic_files:
            file = atomic_files.open("merged.pth")
            ...
            atomic_files.publish()

    Each file is written beside the one that it replaces. If the folder does not exist yet, it is
    written beside its final place and appears as a whole. If the block is left before ``publish``,
    for whatever reason, the files are deleted. A killed process leaves ``NAME.part-PID`` behind,
    which ``remove_leftovers`` deletes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()  # a dangling link could not be replaced
        self.place = self.folder if self.folder.exists() else _part(self.folder)
        self._paths: dict[str, Path] = {}  # name -> temporary path
        self._files: dict[str, FileIO] = {}
        self._in_use = Lock()  # held while publishing or cleaning up
        self._left = False
        self._sync_folder = sync_folder

    def __enter__(self) -> "AtomicFiles":
        return self

    def __exit__(self, *_: object) -> None:
        interrupt: BaseException | None = None
        while not self._left:
            try:
                self._leave()
            except (KeyboardInterrupt, SystemExit) as error:  # Ctrl+C during the clean-up
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _leave(self) -> None:
        """Wait for the publishing thread, then delete unpublished files. Can be called again."""
        with self._in_use:
            for file in self._files.values():
                file.close()
            for path in self._paths.values():
                path.unlink(missing_ok=True)
            if self._is_new_folder:
                with contextlib.suppress(OSError):  # never created, or already renamed
                    self.place.rmdir()
            self._left = True

    @property
    def _is_new_folder(self) -> bool:
        return self.place != self.folder

    def open(self, name: str, private: bool = False) -> FileIO:
        """Create an empty file, unbuffered, for reading and writing.

        ``private``: only this user may read it. Raises OSError. Raises UserError if an existing
        file of this name cannot be replaced, so that this is known before the file is written.
        """
        _require_replaceable(self.folder / name)
        if self._is_new_folder:
            self.place.mkdir(parents=True, exist_ok=True)
        # Registered before it is created, as Ctrl+C may arrive right after that.
        path = self.place / name if self._is_new_folder else _part(self.place / name)
        self._paths[name] = path
        try:
            if private:
                path.touch(0o600, exist_ok=False)
            mode = "r+b" if private else "x+b"
            file = self._files[name] = cast(FileIO, path.open(mode, buffering=0))
        except FileExistsError:  # written by a process with the same id in another container
            del self._paths[name]
            raise
        lock_file(file)  # so that remove_leftovers of another process skips it
        return file

    def free_bytes(self) -> int:
        """Return the free space of the disk that the files are written to. Raises OSError."""
        folders = (self.place, *self.place.parents)
        return shutil.disk_usage(next(path for path in folders if path.exists())).free

    def sync(self) -> None:
        """Sync all files to the disk. Raises OSError."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def publish(self, sync: bool = True) -> None:
        """Give the files their names.

        With ``sync`` they are on disk first. Without it, a power failure may leave an incomplete
        file under the final name, which the reader must be able to detect. The file opened last
        must be one that the others cannot be used without (see ``_publish_files``).

        Raises OSError if nothing was changed, UserError if only some files were replaced.
        """
        self._sync_folder = sync_folder if sync else _leave_to_the_system
        if sync:
            self.sync()
        # Ctrl+C interrupts the main thread only, at any line. Another thread therefore does the
        # renaming: once begun, it finishes, and __exit__ waits for it; otherwise it does nothing.
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
            file.close()  # Windows cannot rename a folder that contains an open file
        self.place.rename(self.folder)
        self._paths.clear()
        self._sync_folder(self.folder.parent)

    def _publish_files(self) -> None:
        """Replace the files so that a mix of old and new ones is never accepted.

        A single file is replaced atomically. With several, the old version of the last file is
        moved aside first, and its new version is put in place after all others. A process that
        is killed in between leaves a folder without that file, which readers refuse. The syncs
        keep this order on disk, for the case of a power failure.
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
                    f"{error.filename} could not be renamed ({reason(error)}) after other files of "
                    f"{self.folder} were replaced; fix the cause and run this again."
                ) from error
            if aside.exists():
                aside.replace(self.folder / last)
            raise
        finally:
            aside.unlink(missing_ok=True)

    def _replace(self, name: str) -> None:
        self._files[name].close()  # Windows cannot rename an open file
        self._paths[name].replace(self.folder / name)
        del self._paths[name]


def write_text(path: Path, text: str, replace: bool = False) -> None:
    """Write a text file atomically.

    Raises UserError if it cannot be written, or if it exists and ``replace`` is false.
    """
    try:
        if path.exists() and not replace:
            raise UserError(f"{path} already exists; name another file.")
        with AtomicFiles(path.parent) as atomic_files:
            file = atomic_files.open(path.name)
            if path.exists():
                shutil.copymode(path, str(file.name))
            data = memoryview(text.encode())
            while data:
                data = data[file.write(data) :]
            atomic_files.publish()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        message = f"{path} cannot be written ({reason(error)}); name another file."
        raise UserError(message) from error


def _leave_to_the_system(folder: Path) -> None:
    """Do not sync: the system writes names to the disk some seconds later."""


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part-{os.getpid()}")


def _require_replaceable(path: Path) -> None:
    try:
        require_replaceable(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be replaced ({reason(error)}): it is write-protected, or another "
            "program has it open, for instance a chat; change that first."
        ) from error


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Delete the unpublished files of killed processes.

    ``names`` are file names or patterns. Files of these names are deleted in the folder itself
    and in its unpublished versions; files that a running process writes are kept.
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
        with contextlib.suppress(OSError):  # in use, or the user has put files there
            unfinished.rmdir()


def _parts(folder: Path, name: str) -> Iterator[Path]:
    for path in folder.glob(f"{name}.part-*"):
        if re.fullmatch(r".+\.part-\d+", path.name):
            yield path


def _remove_if_unused(path: Path) -> None:
    try:
        with path.open("r+b", buffering=0) as file:
            unused = lock_file(file)
        if unused:
            path.unlink()
    except OSError:  # Windows: still open in the process that writes it
        pass
