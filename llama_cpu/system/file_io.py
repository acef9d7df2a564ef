"""File operations that differ between operating systems, each with a fallback."""

import contextlib
import os
import threading
from io import FileIO
from pathlib import Path

_SEEKING = threading.Lock()  # where a read cannot name its place in the file


def read_at(file: FileIO, start: int, target: memoryview) -> int:
    """Fill ``target`` with the file's bytes from ``start`` on; less only at the end of the file.

    Several threads may read one file at once.
    """
    done = 0
    while done < len(target):
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [target[done:]], start + done)
        else:  # macOS before 11, Windows
            with _SEEKING:
                file.seek(start + done)
                count = file.readinto(target[done:]) or 0
        if count == 0:
            break
        done += count
    return done


def write_at(file: FileIO, start: int, data: memoryview) -> None:
    """Write all of ``data`` at ``start``; several threads may write to one file at once."""
    done = 0
    while done < len(data):
        if hasattr(os, "pwrite"):
            done += os.pwrite(file.fileno(), data[done:], start + done)
        else:  # Windows
            with _SEEKING:
                file.seek(start + done)
                done += file.write(data[done:]) or 0


def read_ahead(file: FileIO, start: int, length: int) -> None:
    """Have these bytes of a file read into memory, if the system can; may wait for the disk."""
    if hasattr(os, "posix_fadvise"):  # Linux
        with contextlib.suppress(OSError, ValueError):  # closed, as the program ends
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)


def forget_cached(file: FileIO) -> None:
    """Have the next reading of this file, which was synced, come from the disk itself."""
    if hasattr(os, "posix_fadvise"):  # Linux
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def lock_file(file: FileIO) -> bool:
    """Mark an open file as in use until it is closed or this process ends, however it ends.

    False where another open file holds the mark. Windows needs none: it lets nobody delete a
    file that is open.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def require_replaceable(path: Path) -> None:
    """Raise OSError where another file could not take the place of this one, if it is there.

    Windows replaces no file that is write-protected (which opening it shows) or that any program
    has open or mapped: renaming needs the same right, and to its own name changes nothing.
    """
    if path.exists():
        with path.open("r+b"):
            pass
        path.rename(path)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, after a renaming, on the disk before this returns."""
    if os.name == "nt":  # Windows opens no folders; NTFS keeps a journal of names
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
