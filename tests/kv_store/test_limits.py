"""KV caches that are too much, or no longer wanted."""

import os
from pathlib import Path
from threading import Event as Flag

import pytest

from llama_cpu.errors import UserError
from llama_cpu.history.store import History
from llama_cpu.kv_store.index import list_files
from llama_cpu.kv_store.keeper import ignore_progress
from tests.support.conversations import id_of, turn
from tests.support.stored_caches import (
    LONG,
    TOKENS,
    Open,
    answer_to,
    leave,
    only_file,
    stored_conversation,
)


def sizes(folder: Path) -> list[int]:
    return [file.nbytes for file in list_files(folder)]


def test_a_file_has_as_many_tokens_as_the_limit_allows(open_session: Open, folder: Path) -> None:
    limit = (1 << 16) + 80 * (TOKENS + 4)
    session = open_session(each=limit)
    turn(session, LONG)
    assert len(session.loaded.cache) > 80
    conversation_id = leave(session)
    assert not session.has_unsaved_cache
    assert sizes(folder)[0] <= limit
    assert answer_to(open_session(conversation_id, each=limit), "and then?")[0] == 80


def test_the_oldest_go_first(open_session: Open, folder: Path) -> None:
    conversations = [stored_conversation(open_session) for _ in range(3)]
    size = sizes(folder)[0]
    for number, file in enumerate(list_files(folder)):
        os.utime(file.path, (1000 + number, 1000 + number))
    open_session(conversations[0])  # which was used last now
    session = open_session(total=3 * size + size // 2)
    turn(session, LONG)
    conversations.append(leave(session))
    left = {file.conversation_id for file in list_files(folder)}
    assert left == {conversations[0], *conversations[2:]}
    assert sum(sizes(folder)) <= 3 * size + size // 2


def test_a_deleted_conversation_takes_its_file_along(
    open_session: Open, history: History, folder: Path
) -> None:
    gone, stays = stored_conversation(open_session), stored_conversation(open_session)
    history.delete(gone)  # in another window
    open_session()
    assert [file.conversation_id for file in list_files(folder)] == [stays]


def test_deleted_while_it_was_open(open_session: Open, history: History, folder: Path) -> None:
    session = open_session(stored_conversation(open_session))
    turn(session, "and then?")
    history.delete(id_of(session.conversation))
    session.save_cache(ignore_progress, Flag())
    assert list_files(folder) == []


def test_a_deleted_turn_is_not_left_in_a_file(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    turn(session, "a secret")
    anew = open_session(leave(session))
    anew.conversation.delete_last_turn()
    leave(anew)
    assert list_files(folder) == []


def test_a_deleted_turn_is_not_left_in_a_file_by_the_lens(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    first = session.conversation.line[-1]
    turn(session, "a secret")
    session.conversation.delete_last_turn()
    assert list(session.look(first, Flag()))
    leave(session)
    assert list_files(folder) == []
    turn(session, "and then?")  # what it leaves there is of the line again
    anew = open_session(leave(session))
    assert anew.loaded.cache.token_ids == session.loaded.cache.token_ids


def test_what_the_lens_alone_has_read_is_kept(open_session: Open, folder: Path) -> None:
    conversation_id = stored_conversation(open_session)
    only_file(folder).unlink()
    session = open_session(conversation_id)
    assert list(session.look(session.conversation.line[-1], Flag()))
    leave(session)
    assert open_session(conversation_id).loaded.cache.token_ids == session.loaded.cache.token_ids


def test_a_message_that_is_too_long_costs_no_file(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    cached = list(session.loaded.cache.token_ids)
    with pytest.raises(UserError, match="context"):
        turn(session, "x" * 600)
    session.conversation.take_back()
    assert open_session(leave(session)).loaded.cache.token_ids == cached


def test_files_of_a_database_that_is_gone(open_session: Open, tmp_path: Path, folder: Path) -> None:
    other = History(tmp_path / "other.db")
    session = open_session(store=other)
    turn(session, LONG)
    leave(session)
    stored_conversation(open_session)
    assert len(list_files(folder)) == 2  # another database's are let be
    other.close()
    (tmp_path / "other.db").unlink()
    open_session()
    assert len(list_files(folder)) == 1


def test_files_of_others_are_let_be(open_session: Open, folder: Path) -> None:
    stored_conversation(open_session)
    mine = folder / "mine.safetensors"
    mine.write_bytes(b"x" * (8 << 20))
    open_session()
    assert mine.exists() and len(list_files(folder)) == 1
