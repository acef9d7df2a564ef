"""KV caches of conversations on the disk: one file a conversation, never more than a limit.

All that can go wrong with them means that there is no file; what it held is computed again.
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
from llama_cpu.kv_store.index import PATTERN, KVFileInfo, kept_files, kept_path, mark_of, remove
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.system.atomic_files import AtomicFiles, remove_leftovers
from llama_cpu.system.paths import kv_folder

SHORTEST = 64  # tokens; fewer are read again as quickly
FREE_BYTES = 1 << 30  # that stay free on the disk
LONGEST_SECONDS = 5.0  # to write a file: whoever leaves does not want to wait


class KVStore:
    """The files of one database of conversations, in a folder that all databases share.

    A file belongs to the message that its last tokens are of, and goes with it. Several processes
    may use the folder: a file gets its name when it is whole, and a reader keeps what it has open.
    """

    def __init__(self, history: History, each: int, total: int, folder: Path | None = None) -> None:
        """``history``: a database on the disk. ``each``, ``total``: bytes of one file and of all
        files, at the most."""
        assert history.file is not None
        self._history = history
        self._database = history.file
        self._each, self._total = min(each, total), total
        self._folder = folder or kv_folder()

    def path(self, conversation: int) -> Path:
        """Where its file is, if there is one."""
        return kept_path(self._folder, self._database, conversation)

    def load(
        self,
        conversation: int,
        wanted: Mapping[str, str],
        cache: KVCache,
        vocab_size: int,
        on_progress: Progress,
        stop: Flag,
    ) -> int | None:
        """Have the cache hold what is kept of a conversation, if all that is ``wanted`` is in the
        file's label; returns the message it belongs to, or None where there is nothing to be had.

        A file that is damaged is removed. Raises Cancelled once ``stop`` is set; the cache is empty
        then.
        """
        path = self.path(conversation)
        wanted = {**wanted, **self._own_label(conversation)}
        try:
            with KVFile(path) as file:
                if any(file.label.get(name) != value for name, value in wanted.items()):
                    return None
                message = _message_of(file.label)
                if not self._is_there(conversation, message):
                    raise Damaged
                file.read_into(cache, vocab_size, on_progress, stop)
            os.utime(path)  # the oldest is the one that was not used for the longest time
        except (Damaged, UserError):
            remove(path)
            return None
        except OSError:
            return None
        return message

    def save(
        self,
        conversation: int,
        message: int,
        label: Mapping[str, str],
        cache: KVCache,
        on_progress: Progress,
        stop: Flag,
    ) -> bool:
        """Keep the cache's first tokens, as many as the limit allows, unless they are too few.

        Whether there is a new file; one that is there already stays where that fails. Raises
        Cancelled once ``stop`` is set.
        """
        length = self.length_kept(cache)
        if self.remove_if_gone(conversation, message) or not length:
            return False
        label = {**label, **self._own_label(conversation), "message": str(message)}
        path, size = self.path(conversation), file_bytes(cache, length, label)
        with contextlib.suppress(OSError, UserError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(self._total - size, but=path)
            with AtomicFiles(self._folder) as atomic_files:
                if atomic_files.free_bytes() < size + FREE_BYTES:
                    return False
                file = atomic_files.open(path.name, private=True)
                write_kv(file, label, cache, length, _in_time(on_progress), stop)
                atomic_files.publish(sync=False)  # the checksum tells what a power cut leaves
                return True
        return False

    def _own_label(self, conversation: int) -> dict[str, str]:
        return {"history": str(self._database), "conversation": str(conversation)}

    def length_kept(self, cache: KVCache) -> int:
        """How many of the cache's tokens a file may hold; 0: there would be none."""
        room = max(0, self._each - (1 << 16)) // (cache.bytes_per_token + 4)
        length = min(len(cache), room)
        return length if length >= SHORTEST else 0

    def remove_if_gone(self, conversation: int, message: int) -> bool:
        """Whether the message, or all of the conversation, was deleted; so is the file then."""
        is_gone = not self._is_there(conversation, message)
        if is_gone:
            remove(self.path(conversation))
        return is_gone

    def tidy(self) -> None:
        """Remove what killed processes left half written, what belongs to messages that are no
        more, and what is too much."""
        with contextlib.suppress(OSError):  # a folder that may not be looked into
            remove_leftovers(self._folder, [PATTERN])
        for kept in kept_files(self._folder):
            if not self._is_wanted(kept):
                remove(kept.path)
        self._make_room(self._total)

    def _is_wanted(self, kept: KVFileInfo) -> bool:
        try:
            with KVFile(kept.path) as file:
                label = file.label
            if kept.mark != mark_of(self._database):
                return _may_exist(label.get("history", ""))
            return self._is_there(kept.conversation, _message_of(label))
        except (Damaged, UserError):
            return False
        except OSError:
            return True  # another process is at it

    def _is_there(self, conversation: int, message: int) -> bool:
        try:
            return self._history.message(message).conversation == conversation
        except Gone:
            return False
        except UserError:  # the database cannot be asked now
            return True

    def _make_room(self, total: int, but: Path | None = None) -> None:
        """Remove the oldest files until the others take ``total`` bytes at the most."""
        files = [kept for kept in kept_files(self._folder) if kept.path != but]
        taken = sum(kept.nbytes for kept in files)
        for kept in files:
            if taken <= total:
                return
            remove(kept.path)
            taken -= kept.nbytes


def _in_time(on_progress: Progress) -> Progress:
    """The same; raises Cancelled where the disk is so slow that nobody would wait for it."""
    deadline = time.monotonic() + LONGEST_SECONDS

    def go_on(done: int, total: int) -> None:
        if time.monotonic() > deadline:
            raise Cancelled
        on_progress(done, total)

    return go_on


def _message_of(label: Mapping[str, str]) -> int:
    text = label.get("message", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # SQLite has 64 bits
        raise Damaged
    return int(text)


def _may_exist(database: str) -> bool:
    try:
        return bool(database) and Path(database).exists()
    except (OSError, ValueError):
        return "\0" not in database
