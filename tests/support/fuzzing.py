"""Files that are damaged at random, always alike for a seed, and what the program makes of them.

A target is a good file with a function that uses it as the program does. Whatever the damage, the
file is used or refused with a UserError of one sentence: not another exception, not a panic of a
library on the screen, no long wait and no large memory.
"""

import contextlib
import json
import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any

import torch

from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.history.check import check
from llama_cpu.history.rows import State
from llama_cpu.history.store import History
from llama_cpu.history.transfer import as_json, as_markdown, day_and_time, read_conversation
from llama_cpu.kv_store.file_format import Damaged, KVFile, write_kv
from llama_cpu.loading.plan import plan_loading
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.system.memory import memory_report
from tests.support.checkpoints import (
    random_weights,
    tiny_config,
    write_gguf,
    write_hugging_face,
    write_meta,
)
from tests.support.vocabularies import gguf_vocabulary, sentencepiece_model, write_tokenizer_json

CONFIG = tiny_config(dim=32, n_layers=2, n_heads=4, n_kv_heads=4, hidden_dim=32, context_length=256)
PATIENCE = 10  # seconds; a damaged file takes milliseconds, or a few seconds in a process
MOST_MEMORY = 1 << 30  # bytes more than before; the files have less than a megabyte
HEAD = 8192  # bytes at either end of a file, where the tables of contents are
EDGES = (0, 1, 0x7F, 0x80, 0xFF)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 64, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x",
    "\x1b[2J", "\ud800", "x" * 100_000, [], [[]], {}, [0] * 1000, {"a": {"b": []}},
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A good file, and how it is used: ``use(path)`` raises UserError if it cannot be."""

    path: Path
    use: Callable[[Path], None]

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"


class TooMuch(Exception):
    """Using the file took too long or too much memory."""


def targets(folder: Path) -> list[Target]:
    """Write one good file of each kind below ``folder``."""
    return [*_models(folder), _history(folder), _export(folder), *_caches(folder)]


def attack(target: Target, seed: int) -> str:
    """Damage the file, use it, and restore it; "" or what is wrong with the outcome."""
    chance = random.Random(f"{target.name} {seed}")
    good = target.path.read_bytes()
    target.path.write_bytes(damaged(good, target.path.suffix == ".json", chance))
    try:
        with _limits():
            target.use(target.path)
    except UserError as error:
        sentence = str(error)
        wrong = "\n" in sentence or not 10 < len(sentence) < 900 or "Traceback" in sentence
        return f"not one sentence: {sentence!r}" if wrong else ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        target.path.write_bytes(good)
    return ""


def damaged(data: bytes, is_json: bool, chance: random.Random) -> bytes:
    """Return the file with a few changed bytes, a piece missing or moved, or a changed value."""
    if is_json and chance.random() < 0.7:
        return _with_other_values(data, chance)
    kind = chance.random()
    if kind < 0.1:
        return data[: chance.randrange(len(data))]
    if kind < 0.2:
        place, size = chance.randrange(len(data)), chance.choice((1, 7, 64, 4096))
        piece = data[place : place + size]
        return (
            data[:place] + data[place + size :]
            if chance.random() < 0.5
            else (data[:place] + piece + data[place:])
        )
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(min(HEAD, len(data)))
        if chance.random() < 0.3:
            place = chance.randrange(len(data))
        elif chance.random() < 0.5:
            place = len(data) - 1 - place
        flipped = changed[place] ^ 1 << chance.randrange(8)
        changed[place] = flipped if chance.random() < 0.6 else chance.choice(EDGES)
    return bytes(changed)


def _with_other_values(data: bytes, chance: random.Random) -> bytes:
    values = json.loads(data)
    for _ in range(chance.choice((1, 1, 3))):
        _change_somewhere(values, chance)
    return json.dumps(values).encode()


def _change_somewhere(values: Any, chance: random.Random) -> None:
    """Replace, delete or double one value, on any level with the same chance."""
    inner = values
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(inner[key], (dict, list)) or chance.random() < 0.3:
            break
        inner = inner[key]
    kind = chance.random()
    if kind < 0.15:
        del inner[key]
    elif kind < 0.25 and isinstance(inner, list):
        inner.insert(key, inner[key])
    elif kind < 0.4:
        inner[key] = inner[chance.choice(keys)]
    else:
        inner[key] = chance.choice(VALUES)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Raise TooMuch if the block takes too long or too much memory. No time limit on Windows."""

    def stop(*_: object) -> None:
        raise TooMuch(f"more than {PATIENCE} seconds")

    timed = hasattr(signal, "alarm") and threading.current_thread() is threading.main_thread()
    before = memory_report().peak
    if timed:
        handler = signal.signal(signal.SIGALRM, stop)
        signal.alarm(PATIENCE)
    try:
        yield
    finally:
        if timed:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, handler)
        if memory_report().peak - before > MOST_MEMORY:
            raise TooMuch("more than a gigabyte of memory")


def _models(folder: Path) -> Iterator[Target]:
    weights = random_weights(CONFIG)
    for name, n_shards in (("meta", 1), ("shards", 2)):
        write_meta(folder / name, CONFIG, weights, n_shards)
        (folder / name / "tokenizer.model").write_bytes(sentencepiece_model())
    for name, suffix in (("hugging_face", "safetensors"), ("bin", "bin")):
        write_hugging_face(folder / name, CONFIG, weights, suffix=suffix)
        write_tokenizer_json(folder / name)
    for kind in ("gpt2", "llama"):
        (folder / kind).mkdir()
        write_gguf(folder / kind / "m.gguf", CONFIG, weights, vocabulary=gguf_vocabulary(kind))
    files = {
        "meta": ("params.json", "consolidated.00.pth", "tokenizer.model"),
        "shards": ("consolidated.01.pth",),
        "hugging_face": ("config.json", "model.safetensors", "tokenizer.json"),
        "bin": ("pytorch_model.bin",),
        "gpt2": ("m.gguf",),
        "llama": ("m.gguf",),
    }
    for name, of_model in files.items():
        for file in of_model:
            yield Target(folder / name / file, _use_model)


def _use_model(path: Path) -> None:
    plan = plan_loading(path if path.suffix == ".gguf" else path.parent)
    tokenizer = plan.tokenizer
    ids = tokenizer.encode_prompt("Hello, world!  ")
    tokenizer.decode(ids + tokenizer.encode_message("x"))
    for tensor in plan.checkpoint.tensors.values():
        _read(tensor)


def _read(tensor: StoredTensor) -> None:
    tensor.fill(torch.empty(tensor.shape))


def _history(folder: Path) -> Target:
    path = folder / "history" / "history.db"
    with History(path) as history:
        for number in range(3):
            new = history.create("model", {"seed": number}).id
            question = history.add_message(new, None, "user", f"What is {number}? " * 20)
            answer = history.begin_answer(new, question.id, "model")
            history.save_answer(
                answer.id, f"Number {number}", [1, 2], [0.1], [-0.1], State.COMPLETE
            )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    return Target(path, _use_history)


def _use_history(path: Path) -> None:
    check(path)
    try:
        with History(path) as history:
            for each in history.conversations():
                day_and_time(each.updated)
                as_markdown(each, history.path(each.id))
                as_json(*history.tree(each.id))
            history.search("number")
            new = history.create()
            history.add_message(new.id, None, "user", "Hello")
    finally:
        for rest in path.parent.glob("history.db-*"):
            rest.unlink()


def _export(folder: Path) -> Target:
    path = folder / "export" / "conversation.json"
    path.parent.mkdir()
    with History(None) as history:
        new = history.create("model", {"seed": 1})
        question = history.add_message(new.id, None, "user", "What is it?")
        for text in ("One", "Two"):
            answer = history.begin_answer(new.id, question.id, "model")
            history.save_answer(answer.id, text, [1, 2], [0.1], [-0.1], State.COMPLETE)
        path.write_text(as_json(*history.tree(new.id)))
    return Target(path, _use_export)


def _use_export(path: Path) -> None:
    with History(None) as history:
        copy = history.add_copy(*read_conversation(path))
        as_markdown(copy, history.path(copy.id))
        as_json(*history.tree(copy.id))


def _caches(folder: Path) -> Iterator[Target]:
    for dtype in (torch.float32, torch.int8):
        cache = KVCache(CONFIG, 64, dtype)
        cache.extend(list(range(40)))
        path = folder / f"cache-{dtype}" / "kv.safetensors"
        path.parent.mkdir()
        with path.open("wb", buffering=0) as file:
            write_kv(file, {"model": "x"}, cache, 40, lambda done, total: None, Flag())

        def use(path: Path, cache: KVCache = cache) -> None:
            with contextlib.suppress(Damaged), KVFile(path) as file:
                file.read_into(cache, 320, lambda done, total: None, Flag())

        yield Target(path, use)
