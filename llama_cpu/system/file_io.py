"""File operations that differ between operating systems, each with a fallback."""

import contextlib
import os
import threading
from io import FileIO
from pathlib import Path

_SEEKING = threading.Lock()  # guards the file position where there is no pread


def read_at(file: FileIO, start: int, target: memoryview) -> int:
    """Read into ``target`` from offset ``start`` and return the number of bytes read.

    The number is less than ``len(target)`` only at the end of the file. Several threads may read
    one file at the same time. Raises OSError.
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
    """Write all of ``data`` at offset ``start``. Raises OSError.

    Several threads may write to one file at the same time.
    """
    done = 0
    while done < len(data):
        if hasattr(os, "pwrite"):
            done += os.pwrite(file.fileno(), data[done:], start + done)
        else:  # Windows
            with _SEEKING:
                file.seek(start + done)
                done += file.write(data[done:]) or 0


def read_ahead(file: FileIO, start: int, length: int) -> None:
    """Ask the system to read this range of the file into its cache; may wait for the disk."""
    if hasattr(os, "posix_fadvise"):  # Linux
        with contextlib.suppress(OSError, ValueError):  # closed, as the program is ending
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)


def forget_cached(file: FileIO) -> None:
    """Drop a synced file from the system's cache, so that the next read comes from the disk."""
    if hasattr(os, "posix_fadvise"):  # Linux
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def lock_file(file: FileIO) -> bool:
    """Lock an open file until it is closed or this process ends, even if it is killed.

    Returns False if another open file description holds the lock. Windows needs no lock, because
    it does not let anyone delete an open file.
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
    """Raise OSError if ``path`` exists and could not be replaced by another file.

    Windows does not replace a file that is write-protected, open or mapped. Opening the file for
    writing detects the first; renaming it to its own name, which changes nothing, the others.
    """
    if path.exists():
        with path.open("r+b"):
            pass
        path.rename(path)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that renamed files keep their names after a power failure."""
    if os.name == "nt":  # Windows cannot open a folder; NTFS keeps a journal of names
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
