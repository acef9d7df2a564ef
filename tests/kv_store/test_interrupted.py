"""Stopped, killed, or out of room while a KV cache is written or read."""

import random
import subprocess
import sys
import time
from pathlib import Path
from threading import Event as Flag

import pytest

from llama_cpu.history.store import History
from llama_cpu.kv_store import store as kv_store
from llama_cpu.kv_store.index import list_files
from tests.support.conversations import turn
from tests.support.stored_caches import LONG, Open, answer_to, leave, only_file, stored_conversation

ROOT = Path(__file__).parent.parent.parent


def test_stopped_while_it_is_written_or_read(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    stop = Flag()
    session.save_cache(lambda done, total: stop.set(), stop)
    assert list(folder.iterdir()) == []
    assert session.has_unsaved_cache
    conversation_id = leave(session)
    anew = open_session()
    anew.conversation.open(conversation_id)
    stop = Flag()
    anew.prepare_cache(lambda done, total: stop.set(), stop)
    assert len(anew.loaded.cache) == 0
    assert answer_to(anew, "and then?")[0] == 0  # nobody wanted to wait for it
    assert len(list_files(folder)) == 1


def test_a_slow_disk_is_not_waited_for(
    open_session: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_store, "MAX_SECONDS", -1.0)
    stored_conversation(open_session)
    assert list(folder.iterdir()) == []


def test_a_full_disk_means_no_file(
    open_session: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_store, "MIN_FREE_BYTES", 1 << 60)
    session = open_session()
    turn(session, LONG)
    leave(session)
    assert list(folder.iterdir()) == [] and session.has_unsaved_cache
    monkeypatch.undo()
    leave(session)  # there is room again
    only_file(folder).unlink()

    def full(file: object, start: int, data: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llama_cpu.kv_store.file_format.write_at", full)
    conversation_id = stored_conversation(open_session)
    assert list(folder.iterdir()) == []
    assert answer_to(open_session(conversation_id), "and then?")[0] == 0


def test_a_folder_that_cannot_be_made(open_session: Open, folder: Path) -> None:
    folder.write_text("a file")
    conversation_id = stored_conversation(open_session)
    assert answer_to(open_session(conversation_id), "and then?")[0] == 0


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from threading import Event as Flag
import torch
from llama_cpu.history.store import History
from llama_cpu.kv_store.store import KVStore
from llama_cpu.model.kv_cache import KVCache
from tests.support.checkpoints import tiny_config
history = History(Path(sys.argv[1]))
message = history.path(int(sys.argv[3]))[-1].id
cache = KVCache(tiny_config(), 512, torch.float32)
cache.extend([1] * 500)
def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.05)
store = KVStore(history, 1 << 20, 1 << 22, Path(sys.argv[2]))
store.save(int(sys.argv[3]), message, {"format": "x"}, cache, slowly, Flag())
"""


def test_killed_while_it_is_written(open_session: Open, history: History, folder: Path) -> None:
    conversation_id = stored_conversation(open_session)
    good = only_file(folder).read_bytes()
    chance = random.Random(3)
    for _ in range(4):
        words = [str(history.file), str(folder), str(conversation_id)]
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_SLOWLY, *words], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 12)):  # of 16
            assert process.stdout.readline()
        time.sleep(chance.random() / 20)
        other = open_session()  # lets a file be that is being written
        assert len(list(folder.iterdir())) == 2
        process.kill()
        process.communicate()
        assert [file.path.read_bytes() for file in list_files(folder)] == [good]
        del other
    open_session()
    assert only_file(folder).read_bytes() == good
    assert len(open_session(conversation_id).loaded.cache) > 64


def test_two_windows_with_one_conversation(open_session: Open, folder: Path) -> None:
    conversation_id = stored_conversation(open_session)
    one, other = open_session(conversation_id), open_session(conversation_id)
    turn(one, "first")
    turn(other, "second")
    leave(one)
    leave(other)
    assert len(list_files(folder)) == 1
    anew = open_session(conversation_id)
    assert anew.loaded.cache.token_ids == other.loaded.cache.token_ids
