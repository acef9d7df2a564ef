"""Programs that are started one after the other, with one history and one folder of KV caches."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag

import pytest

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.open_session import cache_keeper
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.history.store import History
from llama_cpu.kv_store.fingerprint import fingerprint
from llama_cpu.kv_store.keeper import ignore_progress
from llama_cpu.kv_store.store import KVStore
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.conversations import PLAIN
from tests.support.engine import GREEDY, load_tiny
from tests.support.stored_caches import Open


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = tiny_config()
    return write_meta(tmp_path / "model", config, random_weights(config))


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.db") as history:
        yield history


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kv"


@pytest.fixture
def open_session(model: Path, history: History, folder: Path) -> Iterator[Open]:
    """A program that was started anew, with a conversation or without."""
    sessions = []

    def open_session(
        conversation_id: int | None = None,
        *,
        source: Path = model,
        precision: WeightFormat = FLOAT32,
        template: ChatTemplate = PLAIN,
        kv_int8: bool = False,
        max_seq_len: int = 512,
        each: int = 1 << 20,
        total: int = 4 << 20,
        store: History = history,
    ) -> ChatSession:
        weights = fingerprint(open_checkpoint(source))
        loaded = load_tiny(source, precision=precision, max_seq_len=max_seq_len, kv_int8=kv_int8)
        conversation = Conversation(store)
        if conversation_id is not None:
            conversation.open(conversation_id)
        keeper = cache_keeper(KVStore(store, each, total, folder), loaded, weights)
        session = ChatSession(
            loaded, template, GREEDY, 12, conversation=conversation, keeper=keeper
        )
        sessions.append(session)
        session.prepare_cache(ignore_progress, Flag())
        return session

    yield open_session
    for session in sessions:
        session.close()
