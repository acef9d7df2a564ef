"""KV caches on the disk: what they save."""

import os
from pathlib import Path
from threading import Event as Flag

import torch
from safetensors import safe_open
from torch import Tensor

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session import ChatSession
from llama_cpu.cli.main import command_parser
from llama_cpu.history.store import History
from llama_cpu.kv_store.index import list_files
from llama_cpu.kv_store.keeper import ignore_progress
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.int8 import INT8
from tests.support.conversations import id_of, prefill_of, turn
from tests.support.stored_caches import LONG, Open, answer_to, leave, only_file, stored_conversation


def test_reopened_conversation_goes_on_as_if_it_had_not_been_left(open_session: Open) -> None:
    first = open_session()
    turn(first, LONG)
    cached = list(first.loaded.cache.token_ids)
    assert first.has_unsaved_cache
    conversation_id = leave(first)
    assert not first.has_unsaved_cache

    anew = open_session(conversation_id)
    assert anew.loaded.cache.token_ids == cached
    assert not anew.has_unsaved_cache
    with_file = answer_to(anew, "and then?")
    anew.conversation.delete_last_turn()
    without = open_session(conversation_id, each=0, total=0)  # which removes the file
    assert len(without.loaded.cache) == 0
    reused, ids = answer_to(without, "and then?")
    assert (reused, with_file[0]) == (0, len(cached))
    assert with_file[1] == ids


def test_keys_and_values_come_back_bit_by_bit(open_session: Open) -> None:
    for precision, kv_int8 in ((FLOAT32, False), (BF16, False), (INT8, False), (FLOAT32, True)):
        first = open_session(precision=precision, kv_int8=kv_int8)
        turn(first, LONG)
        anew = open_session(leave(first), precision=precision, kv_int8=kv_int8)
        length = len(first.loaded.cache)
        assert len(anew.loaded.cache) == length > 64
        pairs = zip(all_pieces(first, length), all_pieces(anew, length), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        assert all(piece.count_nonzero() for piece in all_pieces(anew, length))


def all_pieces(session: ChatSession, length: int) -> list[Tensor]:
    cache = session.loaded.cache
    return [*cache.scale_pieces(length), *cache.pieces(length)]


def test_an_int8_cache_goes_on_as_if_it_had_not_been_left(open_session: Open) -> None:
    first = open_session(kv_int8=True)
    turn(first, LONG)
    cached = len(first.loaded.cache)
    conversation_id = leave(first)
    expected = answer_to(first, "and then?")
    assert expected[0] == cached
    first.conversation.delete_last_turn()
    assert answer_to(open_session(conversation_id, kv_int8=True), "and then?") == expected


def test_the_file_is_an_ordinary_one_that_names_what_it_belongs_to(
    open_session: Open, folder: Path
) -> None:
    conversation_id = stored_conversation(open_session)
    path = only_file(folder)
    with safe_open(path, "pt") as file:
        label = file.metadata()
        ids = file.get_tensor("token_ids").tolist()
        assert file.get_tensor("keys_values").shape == (2, 2, 4, len(ids), 16)
    assert bytes(ids[:15]) == b"u:tell me more "
    assert label["model"] == "model" and label["precision"] == "float32"
    assert label["kv_cache"] == "float32"
    assert label["template"].startswith("plain ") and label["conversation"] == str(conversation_id)
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700


def test_the_file_of_an_int8_cache_has_its_scales(open_session: Open, folder: Path) -> None:
    session = open_session(kv_int8=True)
    turn(session, LONG)
    leave(session)
    cache, length = session.loaded.cache, len(session.loaded.cache)
    with safe_open(only_file(folder), "pt") as file:
        numbers, scales = file.get_tensor("keys_values"), file.get_tensor("scales")
        assert set(file.keys()) == {"token_ids", "keys_values", "scales"}
        assert file.metadata()["kv_cache"] == "int8"
    assert cache.scales is not None
    assert torch.equal(numbers, cache.memory[:, :, :, :length])
    assert torch.equal(scales, cache.scales[..., :length])


def test_another_conversation_and_back(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    first = id_of(session.conversation)
    cached = list(session.loaded.cache.token_ids)
    session.conversation.clear()
    session.prepare_cache(ignore_progress, Flag())
    assert [file.conversation_id for file in list_files(folder)] == [first]
    assert answer_to(session, "x" * 100)[0] == len("u:")
    session.conversation.open(first)
    assert answer_to(session, "and then?")[0] == len(cached)  # also where nobody has prepared it
    assert len(list_files(folder)) == 2


def test_what_another_conversation_left_in_the_cache_is_not_kept_as_this_one(
    open_session: Open, folder: Path
) -> None:
    session = open_session()
    turn(session, "hello")
    other = id_of(session.conversation)
    session.conversation.clear()
    turn(session, LONG)
    session.conversation.open(other)
    session.prepare_cache(ignore_progress, Flag())
    before = list_files(folder)
    session.save_cache(ignore_progress, Flag())  # nothing was asked
    assert list_files(folder) == before
    assert [file.conversation_id for file in before] != [other]


def test_only_what_agrees_with_the_prompt_is_used(open_session: Open) -> None:
    session = open_session(stored_conversation(open_session))
    session.conversation.add_user("tell me less", place=0)
    assert prefill_of(list(session.answer(Flag()))).reused == len("u:tell me ")


def test_short_conversations_have_no_file(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, "hello")
    assert not session.has_unsaved_cache
    leave(session)
    assert list_files(folder) == []


def test_nothing_is_written_twice(open_session: Open, folder: Path) -> None:
    session = open_session(stored_conversation(open_session))
    before = only_file(folder).stat()
    leave(session)
    assert only_file(folder).stat().st_ino == before.st_ino


def test_no_conversation_is_kept_without_history(model: Path) -> None:
    from llama_cpu.chat.open_session import _kv_store

    args = command_parser("chat", "chat").parse_args(["--no_history"])
    assert _kv_store(args, Conversation(History(None))) is None
    assert _kv_store(args, None) is None
