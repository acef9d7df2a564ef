"""Conversations that are left and opened again."""

from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag

from llama_cpu.chat.session import ChatSession
from llama_cpu.generation.events import Token
from llama_cpu.kv_store.keeper import ignore_progress
from tests.support.conversations import id_of, prefill_of, turn

LONG = "tell me more " * 12
TOKENS = 2 * 2 * 4 * 16 * 4  # bytes of a token in the cache
Open = Callable[..., ChatSession]  # with a conversation or without


def leave(session: ChatSession) -> int:
    """The conversation that was left."""
    session.save_cache(ignore_progress, Flag())
    return id_of(session.conversation)


def stored_conversation(open_session: Open, **options) -> int:
    """A conversation with a file. ``options``: of ``open_session``."""
    session = open_session(**options)
    turn(session, LONG)
    return leave(session)


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def answer_to(session: ChatSession, text: str) -> tuple[int, list[int]]:
    """How many tokens were reused, and the answer's ids."""
    events = turn(session, text)
    return prefill_of(events).reused, [each.id for each in events if isinstance(each, Token)]
