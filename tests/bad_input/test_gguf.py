"""GGUF files, written byte by byte so that they can lie."""

import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.bad_input.conftest import CONFIG
from tests.support.checkpoints import random_weights, write_gguf
from tests.support.vocabularies import gguf_vocabulary

U8, U32, F32, STRING, ARRAY, U64 = 0, 4, 6, 8, 9, 10


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(
    *values: bytes, tensors: bytes = b"", n_tensors: int = 0, n_values: int | None = None
) -> bytes:
    n_values = len(values) if n_values is None else n_values
    counts = struct.pack("<IQQ", 3, n_tensors, n_values)
    return b"GGUF" + counts + b"".join(values) + tensors + b"\0" * 256


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(
    name: str = "a",
    shape: tuple = (4, 4),
    kind: int = 0,
    offset: int = 0,
    n_dims: int = -1,
) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape) if n_dims < 0 else n_dims, *shape)
    return string(name) + sizes + struct.pack("<IQ", kind, offset)


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


HUGE = 1 << 60
NESTED = array(ARRAY, 1) * 50 + array(U8, 0)
BAD = {
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "version of the other byte order": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "2^60 tensors": header(n_tensors=HUGE),
    "2^60 values": header(n_values=HUGE),
    "2^64 - 1 values": header(n_values=(1 << 64) - 1),
    "a key of 2^60 letters": header(struct.pack("<Q", HUGE), n_values=1),
    "a string of 2^60 letters": header(pair("a", STRING, struct.pack("<Q", HUGE))),
    "an array of 2^60": header(pair("a", ARRAY, array(U8, HUGE))),
    "an array of 2^60 strings": header(pair("a", ARRAY, array(STRING, HUGE))),
    "an array of 2^60 arrays": header(pair("a", ARRAY, array(ARRAY, HUGE))),
    "arrays in arrays in arrays": header(pair("a", ARRAY, NESTED)),
    "a value of an unknown type": header(pair("a", 99, b"")),
    "an array of an unknown type": header(pair("a", ARRAY, array(99, 1))),
    "2^31 dimensions": header(tensors=tensor(n_dims=1 << 31), n_tensors=1),
    "no dimensions": header(tensors=tensor(shape=()), n_tensors=1),
    "a shape beyond the file": header(tensors=tensor(shape=(1 << 20, 1 << 20)), n_tensors=1),
    "a product beyond 2^64": header(tensors=tensor(shape=(1 << 40, 1 << 40)), n_tensors=1),
    "an offset beyond the file": header(tensors=tensor(offset=HUGE), n_tensors=1),
    "an unknown tensor type": header(tensors=tensor(kind=4), n_tensors=1),
    "an absurd tensor type": header(tensors=tensor(kind=(1 << 32) - 1), n_tensors=1),
    "a row that is no whole block": header(tensors=tensor(shape=(31, 1), kind=8), n_tensors=1),
    "one name twice": header(tensors=tensor() + tensor(offset=64), n_tensors=2),
    "overlapping": header(tensors=tensor() + tensor("b", offset=32), n_tensors=2),
    "alignment 0": header(pair("general.alignment", U32, struct.pack("<I", 0))),
    "alignment 2^31": header(pair("general.alignment", U32, struct.pack("<I", 1 << 31))),
    "alignment of text": header(pair("general.alignment", STRING, string("32"))),
    "part of a split": header(pair("split.count", U32, struct.pack("<I", 2))),
    "split into text": header(pair("split.count", STRING, string("2"))),
    "no metadata": header(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_files(data: bytes, tmp_path: Path, refused) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    assert "m.gguf" in refused(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "start",
    [
        header(n_values=5_000_000)[:-256],
        header(pair("a", ARRAY, array(U8, 1 << 32)))[:-256],
        header(pair("a", STRING, struct.pack("<Q", 1 << 32)))[:-256],
        header(pair("a", ARRAY, array(STRING, 1 << 28)))[:-256],
        header(n_tensors=100_000_000)[:-256],
    ],
    ids=["values", "array", "string", "strings", "tensors"],
)
def test_counts_that_a_large_file_could_hold(start: bytes, tmp_path: Path, refused) -> None:
    with (tmp_path / "m.gguf").open("wb") as file:
        file.write(start)
        file.truncate(5 << 30)  # a hole, which takes no room on the disk
    assert "m.gguf" in refused(tmp_path / "m.gguf")


def written(path: Path, **changes: Any) -> Path:
    """A good file but for the metadata given; "__" stands for "." in the keys."""
    vocabulary = gguf_vocabulary() | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    return write_gguf(path / "m.gguf", CONFIG, random_weights(CONFIG), vocabulary=vocabulary)


def test_another_architecture(tmp_path: Path, refused) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, CONFIG, random_weights(CONFIG), architecture="mamba")
    message = refused(path)
    assert "'mamba'" in message and "m.gguf" in message


class Writer(gguf.GGUFWriter):
    """Replaces what write_gguf says by the values in ``changes``; None leaves it out."""

    changes: dict[str, Any] = {}

    def add_key_value(self, key, value, vtype, sub_type=None) -> None:
        if key not in self.changes:
            super().add_key_value(key, value, vtype, sub_type)
        elif self.changes[key] is not None:
            changed = self.changes[key]
            super().add_key_value(key, changed, gguf.GGUFValueType.get_type(changed))


@pytest.mark.parametrize(
    "key",
    [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.layer_norm_rms_epsilon",
        "llama.rope.freq_base",
        "llama.rope.dimension_count",
        "llama.rope.scaling.type",
        "llama.expert_count",
        "general.architecture",
    ],
)
@pytest.mark.parametrize("value", ["text", [2, 2], -1, True, float("nan")], ids=str)
def test_known_keys_of_wrong_types(key: str, value, tmp_path, refused, monkeypatch) -> None:
    monkeypatch.setattr(gguf, "GGUFWriter", Writer)
    monkeypatch.setattr(Writer, "changes", {key: value})
    extra = {key: value} if "scaling" in key or "expert" in key else {}
    vocabulary = gguf_vocabulary() | extra
    write_gguf(tmp_path / "m.gguf", CONFIG, random_weights(CONFIG), vocabulary=vocabulary)
    assert "m.gguf" in refused(tmp_path / "m.gguf")


@pytest.mark.parametrize("key", ["llama.block_count", "llama.attention.layer_norm_rms_epsilon"])
def test_known_keys_missing(key: str, tmp_path, refused, monkeypatch) -> None:
    monkeypatch.setattr(gguf, "GGUFWriter", Writer)
    monkeypatch.setattr(Writer, "changes", {key: None})
    write_gguf(tmp_path / "m.gguf", CONFIG, random_weights(CONFIG), vocabulary=gguf_vocabulary())
    message = refused(tmp_path / "m.gguf")
    assert key in message and "m.gguf" in message


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "changes",
    [
        {"model": "bert"},
        {"model": 5},
        {"tokens": [1, 2, 3]},
        {"tokens": "abc"},
        {"tokens": ["a"] * 500},
        {"tokens": ["a", "b"]},
        {"token_type": [1, 2]},
        {"token_type": 5},
        {"token_type": ["x"] * 260},
        {"scores": ["x"] * 265, "merges": [1, 2]},
        {"scores": 1.5, "merges": "t h"},
        {"scores": [1.0], "merges": ["x y"]},
        {"bos_token_id": "<s>", "pre": ["gpt-2"]},
        {"unknown_token_id": "<s>", "pre": "unheard of"},
    ],
    ids=str,
)
def test_bad_vocabularies(kind: str, changes: dict, tmp_path: Path, refused) -> None:
    vocabulary = gguf_vocabulary(kind)
    vocabulary |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    write_gguf(tmp_path / "m.gguf", CONFIG, random_weights(CONFIG), vocabulary=vocabulary)
    assert "m.gguf" in refused(tmp_path / "m.gguf")


@pytest.mark.parametrize("template", [5, ["a", "b"], True])
def test_a_template_that_is_not_text(template, tmp_path: Path, refused) -> None:
    path = written(tmp_path, tokenizer__chat_template=template)
    assert "m.gguf" in refused(path, "--chat")
