"""KV caches on disk: one file for each conversation, within a total size limit.

A missing, damaged or outdated file is never an error: the tokens are computed again.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event as Flag

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.history.rows import Gone
from llama_cpu.history.store import History
from llama_cpu.kv_store.file_format import Damaged, KVFile, Progress, file_bytes, write_kv
from llama_cpu.kv_store.index import (
    PATTERN,
    KVFileInfo,
    database_key,
    file_path,
    list_files,
    remove_file,
)
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.system.atomic_files import AtomicFiles, remove_leftovers
from llama_cpu.system.paths import kv_folder

MIN_TOKENS = 64  # a shorter cache is not saved, as prefill is as fast as reading a file
MIN_FREE_BYTES = 1 << 30  # disk space that saving must leave free
MAX_SECONDS = 5.0  # for writing a file: the user is waiting to leave


class KVStore:
    """The KV cache files of one conversation database, in a folder shared by all databases.

    A file belongs to the message that its last tokens come from, and is removed with that message.
    Several processes may use the folder: a file appears under its name only when it is complete,
    and a reader that has it open is not disturbed when it is replaced.
    """

    def __init__(
        self, history: History, file_limit: int, total_limit: int, folder: Path | None = None
    ) -> None:
        """Use the files of ``history``.

        ``history``: a database on disk. ``file_limit``, ``total_limit``: bytes of one file and
        of all files together. ``folder``: None for the user's cache folder.
        """
        assert history.file is not None
        self._history = history
        self._database = history.file
        self._file_limit, self._total_limit = min(file_limit, total_limit), total_limit
        self._folder = folder or kv_folder()

    def path(self, conversation_id: int) -> Path:
        """The path of the conversation's file, whether or not it exists."""
        return file_path(self._folder, self._database, conversation_id)

    def load(
        self,
        conversation_id: int,
        expected: Mapping[str, str],
        cache: KVCache,
        vocab_size: int,
        on_progress: Progress,
        stop: Flag,
    ) -> int | None:
        """Read the conversation's file into the cache.

        Returns the id of the message that the file belongs to, or None if there is no usable file.
        A file is used only if its label contains all ``expected`` entries; a damaged file is
        removed. Raises Cancelled once ``stop`` is set, and leaves the cache empty then.
        """
        path = self.path(conversation_id)
        expected = {**expected, **self._own_label(conversation_id)}
        try:
            with KVFile(path) as file:
                if any(file.label.get(name) != value for name, value in expected.items()):
                    return None
                message_id = _message_id(file.label)
                if not self._exists(conversation_id, message_id):
                    raise Damaged
                file.read_into(cache, vocab_size, on_progress, stop)
            os.utime(path)  # the file unused for the longest time is the first to be removed
        except (Damaged, UserError):
            remove_file(path)
            return None
        except OSError:
            return None
        return message_id

    def save(
        self,
        conversation_id: int,
        message_id: int,
        label: Mapping[str, str],
        cache: KVCache,
        on_progress: Progress,
        stop: Flag,
    ) -> bool:
        """Save the first tokens of the cache, as many as the limit allows, unless they are too few.

        Returns whether a new file was written; an older file remains if writing fails. Raises
        Cancelled once ``stop`` is set or when the disk is too slow.
        """
        length = self.storable_length(cache)
        if self.remove_if_deleted(conversation_id, message_id) or not length:
            return False
        label = {**label, **self._own_label(conversation_id), "message": str(message_id)}
        path, size = self.path(conversation_id), file_bytes(cache, length, label)
        with contextlib.suppress(OSError, UserError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(self._total_limit - size, replaced=path)
            with AtomicFiles(self._folder) as atomic_files:
                if atomic_files.free_bytes() < size + MIN_FREE_BYTES:
                    return False
                file = atomic_files.open(path.name, private=True)
                write_kv(file, label, cache, length, _within_time_limit(on_progress), stop)
                # No sync: the checksum detects a file that a power failure left incomplete.
                atomic_files.publish(sync=False)
                return True
        return False

    def _own_label(self, conversation_id: int) -> dict[str, str]:
        return {"history": str(self._database), "conversation": str(conversation_id)}

    def storable_length(self, cache: KVCache) -> int:
        """Return how many of the cache's tokens a file may hold; 0 if no file would be written."""
        room = max(0, self._file_limit - (1 << 16)) // (cache.bytes_per_token + 4)
        length = min(len(cache), room)
        return length if length >= MIN_TOKENS else 0

    def remove_if_deleted(self, conversation_id: int, message_id: int) -> bool:
        """Remove the file if its message or conversation was deleted; returns whether it was."""
        is_deleted = not self._exists(conversation_id, message_id)
        if is_deleted:
            remove_file(self.path(conversation_id))
        return is_deleted

    def clean_up(self) -> None:
        """Remove files that are no longer wanted.

        These are partial files of killed processes, files of deleted messages, and the oldest files
        beyond the size limit.
        """
        with contextlib.suppress(OSError):  # the folder may not be readable
            remove_leftovers(self._folder, [PATTERN])
        for file in list_files(self._folder):
            if not self._is_wanted(file):
                remove_file(file.path)
        self._make_room(self._total_limit)

    def _is_wanted(self, info: KVFileInfo) -> bool:
        try:
            with KVFile(info.path) as file:
                label = file.label
            if info.database_key != database_key(self._database):
                return _may_exist(label.get("history", ""))
            return self._exists(info.conversation_id, _message_id(label))
        except (Damaged, UserError):
            return False
        except OSError:
            return True  # another process is using it

    def _exists(self, conversation_id: int, message_id: int) -> bool:
        try:
            return self._history.message(message_id).conversation_id == conversation_id
        except Gone:
            return False
        except UserError:  # the database cannot be read now
            return True

    def _make_room(self, limit: int, replaced: Path | None = None) -> None:
        """Remove the oldest files until the others take at most ``limit`` bytes.

        ``replaced``: a file that is about to be replaced, which is neither counted nor removed.
        """
        files = [file for file in list_files(self._folder) if file.path != replaced]
        total = sum(file.nbytes for file in files)
        for file in files:
            if total <= limit:
                return
            remove_file(file.path)
            total -= file.nbytes


def _within_time_limit(on_progress: Progress) -> Progress:
    """Wrap a progress callback: raises Cancelled when writing has taken too long."""
    deadline = time.monotonic() + MAX_SECONDS

    def observe(done: int, total: int) -> None:
        if time.monotonic() > deadline:
            raise Cancelled
        on_progress(done, total)

    return observe


def _message_id(label: Mapping[str, str]) -> int:
    text = label.get("message", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # SQLite's ids have 64 bits
        raise Damaged
    return int(text)


def _may_exist(database: str) -> bool:
    try:
        return bool(database) and Path(database).exists()
    except (OSError, ValueError):
        return "\0" not in database
