"""KV caches on the disk: what they save, and that nothing is ever taken from a wrong one."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

import pytest
import torch
from safetensors import safe_open

from llama_cpu import kept_caches
from llama_cpu.arguments import chat_parser
from llama_cpu.chat import cache_keeper
from llama_cpu.chat.cache_keeper import CacheKeeper, unwatched
from llama_cpu.chat.open_session import session_opener
from llama_cpu.chat.record import Record
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.errors import UserError
from llama_cpu.events import Token
from llama_cpu.fingerprint import fingerprint
from llama_cpu.history.store import History
from llama_cpu.kept_caches import KeptCaches
from llama_cpu.kept_files import kept_files
from llama_cpu.loading import LoadPlan
from llama_cpu.precision import Precision
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import GREEDY, ByteTokenizer, load_tiny
from tests.test_conversation import PLAIN, prefill_of, turn

ROOT = Path(__file__).parent.parent
LONG = "tell me more " * 12
TOKENS = 2 * 2 * 4 * 16 * 4  # bytes of a token in the cache
Open = Callable[..., ChatSession]


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
        conversation: int | None = None,
        *,
        source: Path = model,
        precision: Precision = Precision.FLOAT32,
        template: ChatTemplate = PLAIN,
        max_seq_len: int = 512,
        each: int = 1 << 20,
        total: int = 4 << 20,
        store: History = history,
    ) -> ChatSession:
        weights = fingerprint(open_checkpoint(source))
        loaded = load_tiny(source, precision=precision, max_seq_len=max_seq_len)
        record = Record(store)
        if conversation is not None:
            record.open(conversation)
        kept = KeptCaches(store, each, total, folder)
        keeper = CacheKeeper(kept, loaded.plan, weights, loaded.cache)
        session = ChatSession(loaded, template, GREEDY, 12, record=record, keeper=keeper)
        sessions.append(session)
        session.prepare_cache(unwatched, Flag())
        return session

    yield open_session
    for session in sessions:
        session.close()


def leave(session: ChatSession) -> int:
    """The conversation that was left."""
    session.keep_cache(unwatched, Flag())
    assert session.record.kept_id is not None
    return session.record.kept_id


def kept_one(open_session: Open) -> int:
    """A conversation with a file."""
    session = open_session()
    turn(session, LONG)
    return leave(session)


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def answer_to(session: ChatSession, text: str) -> tuple[int, list[int]]:
    """How many tokens were reused, and the answer's ids."""
    events = turn(session, text)
    return prefill_of(events).reused, [each.id for each in events if isinstance(each, Token)]


# What it is for


def test_reopened_conversation_goes_on_as_if_it_had_not_been_left(open_session: Open) -> None:
    first = open_session()
    turn(first, LONG)
    cached = list(first.loaded.cache.token_ids)
    assert first.has_unkept_cache
    conversation = leave(first)
    assert not first.has_unkept_cache

    anew = open_session(conversation)
    assert anew.loaded.cache.token_ids == cached
    assert not anew.has_unkept_cache
    with_file = answer_to(anew, "and then?")
    anew.record.delete_last_turn()
    without = open_session(conversation, each=0, total=0)  # which removes the file
    assert len(without.loaded.cache) == 0
    reused, ids = answer_to(without, "and then?")
    assert (reused, with_file[0]) == (0, len(cached))
    assert with_file[1] == ids


def test_keys_and_values_come_back_bit_by_bit(open_session: Open) -> None:
    for precision in (Precision.FLOAT32, Precision.BF16, Precision.INT8):
        first = open_session(precision=precision)
        turn(first, LONG)
        anew = open_session(leave(first), precision=precision)
        length = len(first.loaded.cache)
        assert len(anew.loaded.cache) == length > 64
        pairs = zip(
            first.loaded.cache.pieces(length), anew.loaded.cache.pieces(length), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)


def test_the_file_is_an_ordinary_one_that_names_what_it_belongs_to(
    open_session: Open, folder: Path
) -> None:
    conversation = kept_one(open_session)
    path = only_file(folder)
    with safe_open(path, "pt") as file:
        label = file.metadata()
        ids = file.get_tensor("token_ids").tolist()
        assert file.get_tensor("keys_values").shape == (2, 2, 4, len(ids), 16)
    assert bytes(ids[:15]) == b"u:tell me more "
    assert label["model"] == "model" and label["precision"] == "float32"
    assert label["template"].startswith("plain ") and label["conversation"] == str(conversation)
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700


def test_another_conversation_and_back(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    first = session.record.kept_id
    cached = list(session.loaded.cache.token_ids)
    session.record.clear()
    session.prepare_cache(unwatched, Flag())
    assert [kept.conversation for kept in kept_files(folder)] == [first]
    assert answer_to(session, "x" * 100)[0] == len("u:")
    session.record.open(first)
    assert answer_to(session, "and then?")[0] == len(cached)  # also where nobody has prepared it
    assert len(kept_files(folder)) == 2


def test_what_another_conversation_left_in_the_cache_is_not_kept_as_this_one(
    open_session: Open, folder: Path
) -> None:
    session = open_session()
    turn(session, "hello")
    other = session.record.kept_id
    session.record.clear()
    turn(session, LONG)
    session.record.open(other)
    session.prepare_cache(unwatched, Flag())
    before = kept_files(folder)
    session.keep_cache(unwatched, Flag())  # nothing was asked
    assert kept_files(folder) == before
    assert [kept.conversation for kept in before] != [other]


def test_only_what_agrees_with_the_prompt_is_used(open_session: Open) -> None:
    session = open_session(kept_one(open_session))
    session.record.add_user("tell me less", place=0)
    assert prefill_of(list(session.answer(Flag()))).reused == len("u:tell me ")


def test_short_conversations_have_no_file(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, "hello")
    assert not session.has_unkept_cache
    leave(session)
    assert kept_files(folder) == []


def test_nothing_is_written_twice(open_session: Open, folder: Path) -> None:
    session = open_session(kept_one(open_session))
    before = only_file(folder).stat()
    leave(session)
    assert only_file(folder).stat().st_ino == before.st_ino


def test_no_conversation_is_kept_without_history(model: Path) -> None:
    from llama_cpu.chat.open_session import _kept_caches

    args = chat_parser("chat").parse_args(["--no_history"])
    assert _kept_caches(args, Record(History(None))) is None
    assert _kept_caches(args, None) is None


# Never trusted


def test_other_weights(open_session: Open, tmp_path: Path, folder: Path) -> None:
    conversation = kept_one(open_session)
    config = tiny_config()
    other = write_meta(tmp_path / "other" / "model", config, random_weights(config, seed=1))
    assert len(open_session(conversation, source=other).loaded.cache) == 0
    assert len(open_session(conversation).loaded.cache) > 64  # the file is still there


def test_other_rope(open_session: Open, tmp_path: Path, model: Path) -> None:
    conversation = kept_one(open_session)
    params = json.loads((model / "params.json").read_text())
    status = (model / "params.json").stat()
    (model / "params.json").write_text(json.dumps(params | {"rope_theta": 20000.0}))
    os.utime(model / "params.json", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(open_session(conversation).loaded.cache) == 0


def test_weights_changed_in_their_place(open_session: Open, model: Path) -> None:
    """One number, in a row that is none of the samples."""
    conversation = kept_one(open_session)
    path = model / "consolidated.00.pth"
    weights = torch.load(path, weights_only=True)
    weights["layers.0.attention.wq.weight"][7, 3] += 1
    torch.save(weights, path)
    assert len(open_session(conversation).loaded.cache) == 0


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

    args = chat_parser("chat").parse_args([])
    for works in (True, False):
        checkpoint = open_checkpoint(model)
        plan = LoadPlan(checkpoint, ByteTokenizer(), Precision.FLOAT32, 512, 2, False, {})
        session = session_opener(plan, args, Record(history))(lambda *_: None, Flag())
        assert (session._keeper is not None) == works
        session.close()
        monkeypatch.setattr("llama_cpu.chat.open_session.fingerprint", fails)


def test_other_precision(open_session: Open) -> None:
    conversation = kept_one(open_session)
    for precision in (Precision.BF16, Precision.INT8):
        assert len(open_session(conversation, precision=precision).loaded.cache) == 0


def test_other_template(open_session: Open) -> None:
    conversation = kept_one(open_session)
    other = replace(PLAIN, source=PLAIN.source.replace("a:", "b:"))
    assert len(open_session(conversation, template=other).loaded.cache) == 0
    assert len(open_session(conversation).loaded.cache) > 64


def test_other_program(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = kept_one(open_session)
    monkeypatch.setattr(cache_keeper, "__version__", "9.9")
    assert len(open_session(conversation).loaded.cache) == 0


def test_a_context_that_is_too_small(open_session: Open) -> None:
    conversation = kept_one(open_session)
    assert len(open_session(conversation, max_seq_len=100).loaded.cache) == 0


def test_damage_anywhere(open_session: Open, folder: Path) -> None:
    """The file is not used, and the answer is what it is without it."""
    conversation = kept_one(open_session)
    path = only_file(folder)
    good = path.read_bytes()
    expected = answer_to(open_session(conversation, each=0, total=0), "and then?")
    assert expected[0] == 0 and not path.exists()
    open_session(conversation).record.delete_last_turn()
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
        session.record.clear()
        session.prepare_cache(unwatched, Flag())
        session.loaded.cache.truncate(0)
        session.record.open(conversation)
        session.prepare_cache(unwatched, Flag())
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
    conversation = kept_one(open_session)
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
    session = open_session(conversation)
    assert len(session.loaded.cache) == 0
    assert answer_to(session, "and then?")[0] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(open_session: Open, folder: Path, bad: float) -> None:
    """A file that was made so that all of it is right but the numbers."""
    session = open_session()
    turn(session, LONG)
    next(session.loaded.cache.pieces(10))[3, 2] = bad
    assert len(open_session(leave(session)).loaded.cache) == 0
    assert kept_files(folder) == []


def test_ids_that_the_vocabulary_has_not(open_session: Open) -> None:
    session = open_session()
    turn(session, LONG)
    session.loaded.cache.token_ids[5] = 320
    assert len(open_session(leave(session)).loaded.cache) == 0


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_something_else_in_its_place(open_session: Open, folder: Path, kind: str) -> None:
    conversation = kept_one(open_session)
    path = only_file(folder)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        pytest.importorskip("fcntl", reason="Windows has no such pipes")
        os.mkfifo(path)
    session = open_session(conversation)
    assert answer_to(session, "and then?")[0] == 0
    leave(session)


# What is too much, or no longer wanted


def sizes(folder: Path) -> list[int]:
    return [kept.nbytes for kept in kept_files(folder)]


def test_a_file_has_as_many_tokens_as_the_limit_allows(open_session: Open, folder: Path) -> None:
    limit = (1 << 16) + 80 * (TOKENS + 4)
    session = open_session(each=limit)
    turn(session, LONG)
    assert len(session.loaded.cache) > 80
    conversation = leave(session)
    assert not session.has_unkept_cache
    assert sizes(folder)[0] <= limit
    assert answer_to(open_session(conversation, each=limit), "and then?")[0] == 80


def test_the_oldest_go_first(open_session: Open, folder: Path) -> None:
    conversations = [kept_one(open_session) for _ in range(3)]
    size = sizes(folder)[0]
    for number, kept in enumerate(kept_files(folder)):
        os.utime(kept.path, (1000 + number, 1000 + number))
    open_session(conversations[0])  # which was used last now
    session = open_session(total=3 * size + size // 2)
    turn(session, LONG)
    conversations.append(leave(session))
    left = {kept.conversation for kept in kept_files(folder)}
    assert left == {conversations[0], *conversations[2:]}
    assert sum(sizes(folder)) <= 3 * size + size // 2


def test_a_deleted_conversation_takes_its_file_along(
    open_session: Open, history: History, folder: Path
) -> None:
    gone, stays = kept_one(open_session), kept_one(open_session)
    history.delete(gone)  # in another window
    open_session()
    assert [kept.conversation for kept in kept_files(folder)] == [stays]


def test_deleted_while_it_was_open(open_session: Open, history: History, folder: Path) -> None:
    session = open_session(kept_one(open_session))
    turn(session, "and then?")
    history.delete(session.record.kept_id)
    session.keep_cache(unwatched, Flag())
    assert kept_files(folder) == []


def test_a_deleted_turn_is_not_left_in_a_file(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    turn(session, "a secret")
    anew = open_session(leave(session))
    anew.record.delete_last_turn()
    leave(anew)
    assert kept_files(folder) == []


def test_a_deleted_turn_is_not_left_in_a_file_by_the_lens(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    first = session.record.line[-1]
    turn(session, "a secret")
    session.record.delete_last_turn()
    assert list(session.look(first, Flag()))
    leave(session)
    assert kept_files(folder) == []
    turn(session, "and then?")  # what it leaves there is of the line again
    anew = open_session(leave(session))
    assert anew.loaded.cache.token_ids == session.loaded.cache.token_ids


def test_what_the_lens_alone_has_read_is_kept(open_session: Open, folder: Path) -> None:
    conversation = kept_one(open_session)
    only_file(folder).unlink()
    session = open_session(conversation)
    assert list(session.look(session.record.line[-1], Flag()))
    leave(session)
    assert open_session(conversation).loaded.cache.token_ids == session.loaded.cache.token_ids


def test_a_message_that_is_too_long_costs_no_file(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    cached = list(session.loaded.cache.token_ids)
    with pytest.raises(UserError, match="context"):
        turn(session, "x" * 600)
    session.record.take_back()
    assert open_session(leave(session)).loaded.cache.token_ids == cached


def test_files_of_a_database_that_is_gone(open_session: Open, tmp_path: Path, folder: Path) -> None:
    other = History(tmp_path / "other.db")
    session = open_session(store=other)
    turn(session, LONG)
    leave(session)
    kept_one(open_session)
    assert len(kept_files(folder)) == 2  # another database's are let be
    other.close()
    (tmp_path / "other.db").unlink()
    open_session()
    assert len(kept_files(folder)) == 1


def test_files_of_others_are_let_be(open_session: Open, folder: Path) -> None:
    kept_one(open_session)
    mine = folder / "mine.safetensors"
    mine.write_bytes(b"x" * (8 << 20))
    open_session()
    assert mine.exists() and len(kept_files(folder)) == 1


# Interrupted


def test_stopped_while_it_is_written_or_read(open_session: Open, folder: Path) -> None:
    session = open_session()
    turn(session, LONG)
    stop = Flag()
    session.keep_cache(lambda done, total: stop.set(), stop)
    assert list(folder.iterdir()) == []
    assert session.has_unkept_cache
    conversation = leave(session)
    anew = open_session()
    anew.record.open(conversation)
    stop = Flag()
    anew.prepare_cache(lambda done, total: stop.set(), stop)
    assert len(anew.loaded.cache) == 0
    assert answer_to(anew, "and then?")[0] == 0  # nobody wanted to wait for it
    assert len(kept_files(folder)) == 1


def test_a_slow_disk_is_not_waited_for(
    open_session: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_caches, "LONGEST_SECONDS", -1.0)
    kept_one(open_session)
    assert list(folder.iterdir()) == []


def test_a_full_disk_means_no_file(
    open_session: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_caches, "FREE_BYTES", 1 << 60)
    session = open_session()
    turn(session, LONG)
    leave(session)
    assert list(folder.iterdir()) == [] and session.has_unkept_cache
    monkeypatch.undo()
    leave(session)  # there is room again
    only_file(folder).unlink()

    def full(file: object, start: int, data: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llama_cpu.transformer.kv_file.write_at", full)
    conversation = kept_one(open_session)
    assert list(folder.iterdir()) == []
    assert answer_to(open_session(conversation), "and then?")[0] == 0


def test_a_folder_that_cannot_be_made(open_session: Open, folder: Path) -> None:
    folder.write_text("a file")
    conversation = kept_one(open_session)
    assert answer_to(open_session(conversation), "and then?")[0] == 0


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from threading import Event as Flag
import torch
from llama_cpu.history.store import History
from llama_cpu.kept_caches import KeptCaches
from llama_cpu.transformer.kv_cache import KVCache
from tests.support.checkpoints import tiny_config
history = History(Path(sys.argv[1]))
message = history.path(int(sys.argv[3]))[-1].id
cache = KVCache(tiny_config(), 512, torch.float32)
cache.extend([1] * 500)
def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.05)
kept = KeptCaches(history, 1 << 20, 1 << 22, Path(sys.argv[2]))
kept.save(int(sys.argv[3]), message, {"format": "x"}, cache, slowly, Flag())
"""


def test_killed_while_it_is_written(open_session: Open, history: History, folder: Path) -> None:
    conversation = kept_one(open_session)
    good = only_file(folder).read_bytes()
    chance = random.Random(3)
    for _ in range(4):
        words = [str(history.file), str(folder), str(conversation)]
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
        assert [kept.path.read_bytes() for kept in kept_files(folder)] == [good]
        del other
    open_session()
    assert only_file(folder).read_bytes() == good
    assert len(open_session(conversation).loaded.cache) > 64


def test_two_windows_with_one_conversation(open_session: Open, folder: Path) -> None:
    conversation = kept_one(open_session)
    one, other = open_session(conversation), open_session(conversation)
    turn(one, "first")
    turn(other, "second")
    leave(one)
    leave(other)
    assert len(kept_files(folder)) == 1
    anew = open_session(conversation)
    assert anew.loaded.cache.token_ids == other.loaded.cache.token_ids
