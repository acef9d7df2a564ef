"""A KV cache that is damaged, or of something else, is computed again."""

import json
import os
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event as Flag

import pytest
import torch

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.open_session import session_opener
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.cli.main import command_parser
from llama_cpu.history.store import History
from llama_cpu.kv_store import keeper
from llama_cpu.kv_store.fingerprint import fingerprint
from llama_cpu.kv_store.index import list_files
from llama_cpu.kv_store.keeper import ignore_progress
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.int8 import INT8
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.conversations import PLAIN, turn
from tests.support.engine import make_plan
from tests.support.stored_caches import LONG, Open, answer_to, leave, only_file, stored_conversation


def test_other_weights(open_session: Open, tmp_path: Path, folder: Path) -> None:
    conversation_id = stored_conversation(open_session)
    config = tiny_config()
    other = write_meta(tmp_path / "other" / "model", config, random_weights(config, seed=1))
    assert len(open_session(conversation_id, source=other).loaded.cache) == 0
    assert len(open_session(conversation_id).loaded.cache) > 64  # the file is still there


def test_other_rope(open_session: Open, tmp_path: Path, model: Path) -> None:
    conversation_id = stored_conversation(open_session)
    params = json.loads((model / "params.json").read_text())
    status = (model / "params.json").stat()
    (model / "params.json").write_text(json.dumps(params | {"rope_theta": 20000.0}))
    os.utime(model / "params.json", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(open_session(conversation_id).loaded.cache) == 0


def test_weights_changed_in_their_place(open_session: Open, model: Path) -> None:
    """One number, in a row that is none of the samples."""
    conversation_id = stored_conversation(open_session)
    path = model / "consolidated.00.pth"
    weights = torch.load(path, weights_only=True)
    weights["layers.0.attention.wq.weight"][7, 3] += 1
    torch.save(weights, path)
    assert len(open_session(conversation_id).loaded.cache) == 0


def test_other_weights_of_the_same_size_and_time(
    open_session: Open, model: Path, tmp_path: Path
) -> None:
    before = fingerprint(open_checkpoint(model))
    assert fingerprint(open_checkpoint(model)) == before
    path = model / "consolidated.00.pth"
    status = path.stat()
    config = tiny_config()
    other = write_meta(tmp_path / "other", config, random_weights(config, seed=1))
    path.write_bytes((other / path.name).read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert fingerprint(open_checkpoint(model)) != before


def test_a_fingerprint_that_cannot_be_taken_only_keeps_no_caches(
    model: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(checkpoint: object) -> str:
        raise OSError("the disk is gone")

    args = command_parser("chat", "chat").parse_args([])
    for works in (True, False):
        plan = make_plan(model)
        session = session_opener(plan, args, Conversation(history))(lambda *_: None, Flag())
        assert (session._keeper is not None) == works
        session.close()
        monkeypatch.setattr("llama_cpu.chat.open_session.fingerprint", fails)


def test_other_precision(open_session: Open) -> None:
    conversation_id = stored_conversation(open_session)
    for precision in (BF16, INT8):
        assert len(open_session(conversation_id, precision=precision).loaded.cache) == 0


@pytest.mark.parametrize("kv_int8", [False, True])
def test_another_type_of_cache(open_session: Open, folder: Path, kv_int8: bool) -> None:
    conversation_id = stored_conversation(open_session, kv_int8=kv_int8)
    assert len(open_session(conversation_id, kv_int8=not kv_int8).loaded.cache) == 0
    assert len(open_session(conversation_id, kv_int8=kv_int8).loaded.cache) > 64  # still there


@pytest.mark.parametrize("kv_int8", [False, True])
def test_another_type_of_cache_under_a_false_label(
    open_session: Open, folder: Path, kv_int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header does not agree either."""
    monkeypatch.setattr(KVCache, "type_name", "any")
    conversation_id = stored_conversation(open_session, kv_int8=kv_int8)
    assert len(open_session(conversation_id, kv_int8=kv_int8).loaded.cache) > 64
    assert len(open_session(conversation_id, kv_int8=not kv_int8).loaded.cache) == 0
    assert list_files(folder) == []


def test_other_template(open_session: Open) -> None:
    conversation_id = stored_conversation(open_session)
    other = replace(PLAIN, source=PLAIN.source.replace("a:", "b:"))
    assert len(open_session(conversation_id, template=other).loaded.cache) == 0
    assert len(open_session(conversation_id).loaded.cache) > 64


def test_other_program(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation_id = stored_conversation(open_session)
    monkeypatch.setattr(keeper, "__version__", "9.9")
    assert len(open_session(conversation_id).loaded.cache) == 0


def test_a_context_that_is_too_small(open_session: Open) -> None:
    conversation_id = stored_conversation(open_session)
    assert len(open_session(conversation_id, max_seq_len=100).loaded.cache) == 0


@pytest.mark.parametrize("kv_int8", [False, True])
def test_damage_anywhere(open_session: Open, folder: Path, kv_int8: bool) -> None:
    """The file is not used, and the answer is what it is without it."""
    open_session = partial(open_session, kv_int8=kv_int8)
    conversation_id = stored_conversation(open_session)
    path = only_file(folder)
    good = path.read_bytes()
    expected = answer_to(open_session(conversation_id, each=0, total=0), "and then?")
    assert expected[0] == 0 and not path.exists()
    open_session(conversation_id).conversation.delete_last_turn()
    chance = random.Random(5)
    header = 8 + int.from_bytes(good[:8], "little")
    places = [0, 3, 7, 8, header - 1, header, len(good) - 1]
    places += [chance.randrange(8, header) for _ in range(60)]
    places += [chance.randrange(header, len(good)) for _ in range(20)]
    damaged = [
        good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :] for at in places
    ]
    damaged += [b"", good[:5], good[:header], good[:-1], good + b"\0", good[: len(good) // 2]]
    session = open_session()
    used = 0
    for data in damaged:
        path.write_bytes(data)
        session.conversation.clear()
        session.prepare_cache(ignore_progress, Flag())
        session.loaded.cache.truncate(0)
        session.conversation.open(conversation_id)
        session.prepare_cache(ignore_progress, Flag())
        used += len(session.loaded.cache) > 0
    # A bit of the label's own that nothing hangs on: none, as the checksum covers all of it.
    assert used == 0
    assert answer_to(session, "and then?") == expected


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": "99999999999999999999"}, {"tokens": "-1"}, {"tokens": "0"}, {"tokens": "511"},
        {"tokens": "²"}, {"tokens": 3}, {"sha256": ""}, {"sha256": "0" * 64}, {"message": "1e9"},
        {"message": "9" * 18}, {"message": "\ud800"}, {"history": "\0"}, None, [], "deep",
    ],
)  # fmt: skip
def test_a_hostile_label(open_session: Open, folder: Path, change: object) -> None:
    conversation_id = stored_conversation(open_session)
    path = only_file(folder)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + size])
    if isinstance(change, dict):
        table["__metadata__"] |= change
    else:
        table["__metadata__"] = change
    text = b"[" * 60000 if change == "deep" else json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    session = open_session(conversation_id)
    assert len(session.loaded.cache) == 0
    assert answer_to(session, "and then?")[0] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(open_session: Open, folder: Path, bad: float) -> None:
    """A file that was made so that all of it is right but the numbers."""
    session = open_session()
    turn(session, LONG)
    next(session.loaded.cache.pieces(10))[3, 2] = bad
    assert len(open_session(leave(session)).loaded.cache) == 0
    assert list_files(folder) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.25])
def test_scales_that_cannot_be(open_session: Open, folder: Path, bad: float) -> None:
    session = open_session(kv_int8=True)
    turn(session, LONG)
    assert session.loaded.cache.scales is not None
    session.loaded.cache.scales[1, 1, 2, 7] = bad
    assert len(open_session(leave(session), kv_int8=True).loaded.cache) == 0
    assert list_files(folder) == []


def test_a_number_that_quantizing_never_gives(open_session: Open, folder: Path) -> None:
    session = open_session(kv_int8=True)
    turn(session, LONG)
    session.loaded.cache.memory[1, 1, 2, 7, 3] = -128
    assert len(open_session(leave(session), kv_int8=True).loaded.cache) == 0
    assert list_files(folder) == []


def test_ids_that_the_vocabulary_has_not(open_session: Open) -> None:
    session = open_session()
    turn(session, LONG)
    session.loaded.cache.token_ids[5] = 320
    assert len(open_session(leave(session)).loaded.cache) == 0


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_something_else_in_its_place(open_session: Open, folder: Path, kind: str) -> None:
    conversation_id = stored_conversation(open_session)
    path = only_file(folder)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        pytest.importorskip("fcntl", reason="Windows has no such pipes")
        os.mkfifo(path)
    session = open_session(conversation_id)
    assert answer_to(session, "and then?")[0] == 0
    leave(session)
