"""Files of weights from PyTorch and Hugging Face: damaged, hostile or of another model."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from tests.bad_input.conftest import CONFIG
from tests.support.checkpoints import random_weights, read_all, write_meta
from tests.support.vocabularies import sentencepiece_model

WEIGHTS = {
    "meta": "consolidated.00.pth",
    "shards": "consolidated.01.pth",
    "hugging_face": "model.safetensors",
    "bin": "pytorch_model.bin",
    "gpt2": "m.gguf",
}


class CreatesFile:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("cut", ["first bytes", "header", "quarter", "half", "last byte"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_truncated(name: str, cut: str, model, refused) -> None:
    folder = model(name)
    file = folder / WEIGHTS[name]
    data = file.read_bytes()
    lengths = {"first bytes": 3, "header": 100, "quarter": len(data) // 4, "half": len(data) // 2}
    file.write_bytes(data[: lengths.get(cut, len(data) - 1)])
    message = refused(folder)
    assert WEIGHTS[name] in message


@pytest.mark.parametrize("garbage", [b"", b"\0" * 4096, b"PK\x03\x04", b"\x80\x02", b"GGUF"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_garbage(name: str, garbage: bytes, model, refused) -> None:
    folder = model(name)
    (folder / WEIGHTS[name]).write_bytes(garbage)
    assert WEIGHTS[name] in refused(folder)


def saved(values: object, protocol: int = 2, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(values, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["alone", "among tensors", "as a name", "within"])
def test_code_in_a_pickle_is_not_run(
    place: str, protocol: int, legacy: bool, model, refused, tmp_path: Path
) -> None:
    created = tmp_path / "created"
    hostile = CreatesFile(created)
    weights = dict(torch.load(model("meta") / WEIGHTS["meta"]))
    values = {
        "alone": hostile,
        "among tensors": {**weights, "output.weight": hostile},
        "as a name": {**weights, hostile: torch.ones(1)},
        "within": {**weights, "more": {"of": [torch.ones(1), (hostile,)]}},
    }[place]
    folder = tmp_path / "meta"
    (folder / WEIGHTS["meta"]).write_bytes(saved(values, protocol, legacy))
    assert "run code" in refused(folder)
    assert not created.exists()


def test_code_in_a_plain_pickle_is_not_run(model, refused, tmp_path: Path) -> None:
    folder = model("meta")
    created = tmp_path / "created"
    (folder / WEIGHTS["meta"]).write_bytes(pickle.dumps(CreatesFile(created), protocol=2))
    refused(folder)
    assert not created.exists()


def with_table(pth: bytes, table: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The zip with another pickle in it."""
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pth)) as old, zipfile.ZipFile(rebuilt, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, table if name.endswith("data.pkl") else old.read(name))
    return rebuilt.getvalue()


@pytest.mark.parametrize(
    "table",
    [
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02X\xff\xff\xff\x7fx.",
        b"",
    ],
    ids=[
        "allocates 64 GiB", "the same in Python 2", "function of torch", "function uncalled",
        "list of itself", "marks", "absurd length", "empty",
    ],
)  # fmt: skip
def test_hostile_tables_of_contents(table: bytes, model, refused) -> None:
    file = model("meta") / WEIGHTS["meta"]
    file.write_bytes(with_table(file.read_bytes(), table))
    assert file.name in refused(file.parent)


def test_compressed_zip(model, refused) -> None:
    file = model("meta") / WEIGHTS["meta"]
    table = b"\x80\x02" + b"N0" * 40_000_000 + b"."
    file.write_bytes(with_table(file.read_bytes(), table, zipfile.ZIP_DEFLATED))
    assert file.name in refused(file.parent)


@pytest.mark.parametrize(
    "values",
    [
        [torch.ones(3)],
        torch.ones(3),
        {"a": 1},
        {1: torch.ones(3)},
        {"a": torch.ones(3).to_sparse()},
        {"a": torch.ones(1).expand(1 << 40)},
        {"a": torch.ones(3, dtype=torch.complex64)},
        {},
    ],
    ids=[
        "list", "tensor", "number", "name", "sparse", "expanded", "complex", "nothing",
    ],
)  # fmt: skip
def test_not_named_tensors(values, model, refused) -> None:
    folder = model("meta")
    (folder / WEIGHTS["meta"]).write_bytes(saved(values))
    assert str(folder) in refused(folder)


def zipped_again(pth: bytes, change=lambda name, data: data) -> bytes:
    """The same records without torch's padding, as other programs zip a folder."""
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pth)) as old, zipfile.ZipFile(rebuilt, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return rebuilt.getvalue()


@pytest.mark.parametrize("name", ["meta", "shards", "bin"])
def test_zipped_again(name: str, model) -> None:
    folder = model(name)
    before = read_all(folder)
    for file in [*folder.glob("*.pth"), *folder.glob("*.bin")]:
        file.write_bytes(zipped_again(file.read_bytes()))
    after = read_all(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_local_headers_that_differ_from_the_directory(model, refused) -> None:
    file = model("meta") / WEIGHTS["meta"]
    data = file.read_bytes()
    place = data.index(b"/data/3") + len(b"/data/")
    file.write_bytes(data[:place] + b"4" + data[place + 1 :])
    assert file.name in refused(file.parent)


def test_saved_on_a_big_endian_computer(model, refused) -> None:
    file = model("meta") / WEIGHTS["meta"]
    order = zipped_again(
        file.read_bytes(), lambda name, data: b"big" if name.endswith("byteorder") else data
    )
    file.write_bytes(order)
    assert "big-endian" in refused(file.parent)


HUGE = (1 << 62) + 7
BAD_VIEWS = {
    "a negative offset": (-5, (2, 2), (2, 1)),
    "an offset beyond the end": (1 << 40, (2, 2), (2, 1)),
    "a negative size": (0, (-2, 2), (2, 1)),
    "a size that overflows": (0, (1 << 40, 1 << 40), (1, 1)),
    "a stride that overflows": (0, (3, 2), (HUGE, 1)),
    "a stride beyond 64 bits": (0, (3, 2), (1 << 64, 1)),
    "more sizes than strides": (0, (2, 2), (1,)),
    "text for a size": (0, ("2", 2), (2, 1)),
}


class View:
    """Pickled, it is a tensor with any offset, size and stride, over a storage of 4 numbers."""

    def __init__(self, storage, offset: int, size: tuple, stride: tuple) -> None:
        self.arguments: tuple = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("view", BAD_VIEWS.values(), ids=BAD_VIEWS)
def test_impossible_views(view, legacy: bool, model, refused, caplog) -> None:
    folder = model("meta")
    values = {"a": View(torch.ones(4)._typed_storage(), *view)}
    (folder / WEIGHTS["meta"]).write_bytes(saved(values, legacy=legacy))
    assert WEIGHTS["meta"] in refused(folder)
    assert not caplog.records


def test_the_same_shard_twice(model, refused) -> None:
    folder = model("shards")
    (folder / "consolidated.02.pth").write_bytes((folder / "consolidated.01.pth").read_bytes())
    message = refused(folder)
    assert "same shard" in message and "consolidated.02.pth" in message


def test_legacy_file_larger_than_the_memory(model, refused, monkeypatch) -> None:
    file = model("meta") / WEIGHTS["meta"]
    file.write_bytes(saved(torch.load(file), legacy=True))
    monkeypatch.setattr("llama_cpu.checkpoint.pth.available_memory", lambda: 1000)
    assert file.name in refused(file.parent)


def test_missing_shard_in_the_middle(model, refused) -> None:
    folder = model("shards")
    (folder / "consolidated.01.pth").unlink()
    assert "consolidated.01.pth" in refused(folder)


def test_no_weights(model, refused) -> None:
    folder = model("meta")
    (folder / WEIGHTS["meta"]).unlink()
    assert str(folder) in refused(folder)


def change_shard(folder: Path, change) -> None:
    file = folder / WEIGHTS["shards"]
    tensors = torch.load(file)
    change(tensors)
    torch.save(tensors, file)


WQ, NORM = "layers.1.attention.wq.weight", "layers.0.ffn_norm.weight"
DISAGREEMENTS = {
    "one lacks a tensor": lambda tensors: tensors.pop(WQ),
    "one has more": lambda tensors: tensors.update({"more.weight": torch.ones(2)}),
    "shape": lambda tensors: tensors.update({WQ: tensors[WQ][:-1].clone()}),
    "dimensions": lambda tensors: tensors.update({WQ: tensors[WQ][0].clone()}),
    "type": lambda tensors: tensors.update({WQ: tensors[WQ].half()}),
    "copies of a norm": lambda tensors: tensors.update({NORM: tensors[NORM] + 1}),
    "a norm of no dimension": lambda tensors: tensors.update({NORM: torch.tensor(1.0)}),
}


@pytest.mark.parametrize("change", DISAGREEMENTS.values(), ids=DISAGREEMENTS)
def test_shards_that_disagree(change, model, refused) -> None:
    folder = model("shards")
    change_shard(folder, change)
    assert "disagree" in (message := refused(folder)) or "different copies" in message
    assert "consolidated." in message


CHANGES = {
    "missing": lambda weights: weights.pop("layers.0.attention.wq.weight"),
    "extra": lambda weights: weights.update({"vision.weight": torch.ones(2, 2)}),
    "extra layer": lambda weights: weights.update({"layers.7.ffn_norm.weight": torch.ones(2)}),
    "shape": lambda weights: weights.update({"norm.weight": torch.ones(31)}),
    "dimensions": lambda weights: weights.update({"norm.weight": torch.ones(32, 1)}),
    "a number": lambda weights: weights.update({"tok_embeddings.weight": torch.tensor(1.0)}),
    "no rows": lambda weights: weights.update({"tok_embeddings.weight": torch.ones(0, 32)}),
    "whole numbers": lambda weights: weights.update({"norm.weight": torch.ones(32).long()}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tensors_of_another_model(change, model, refused) -> None:
    folder = model("meta")
    weights = dict(torch.load(folder / WEIGHTS["meta"]))
    change(weights)
    torch.save(weights, folder / WEIGHTS["meta"])
    assert str(folder) in refused(folder)


def test_names_with_escape_sequences_are_shown_as_text(model, refused) -> None:
    folder = model("meta")
    weights = {"\x1b[2J\n" + "x" * 1000: torch.ones(2), **torch.load(folder / WEIGHTS["meta"])}
    torch.save(weights, folder / WEIGHTS["meta"])
    assert "\x1b" not in refused(folder)


def safetensors(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes) -> dict:
    return {"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]} | changes}


BAD_SAFETENSORS = {
    "header longer than the file": safetensors({}, length=1 << 20),
    "header of 2^63 bytes": safetensors({}, length=1 << 63),
    "header of 2^64 - 1 bytes": safetensors({}, length=(1 << 64) - 1),
    "deeply nested": safetensors(b'{"a":' * 50_000),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "a list": safetensors([1]),
    "an entry that is no object": safetensors({"a": 1}),
    "no shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 64]}}),
    "negative shape": safetensors(entry(shape=[-4, -4])),
    "a product beyond 2^64": safetensors(entry(shape=[1 << 40, 1 << 40])),
    "a product that wraps round to 16": safetensors(entry(shape=[1 << 32, (1 << 32) + 16])),
    "a shape of text": safetensors(entry(shape=["4", "4"])),
    "a shape of fractions": safetensors(entry(shape=[3.99, 4.0])),
    "an infinite shape": safetensors(entry(shape=[float("inf")])),
    "a shape of truth": safetensors(entry(shape=[True, 16])),
    "offsets beyond the end": safetensors(entry(data_offsets=[8, 72])),
    "offsets before the data": safetensors(entry(data_offsets=[-64, 0])),
    "offsets turned round": safetensors(entry(data_offsets=[64, 0])),
    "three offsets": safetensors(entry(data_offsets=[0, 32, 64])),
    "offsets that are none": safetensors(entry(data_offsets=None)),
    "unknown type": safetensors(entry(dtype="\x1b[2J" * 100)),
    "a type that is a list": safetensors(entry(dtype=["F32"])),
    "overlapping": safetensors(entry(data_offsets=[0, 64]) | {"b": entry()["a"]}),
    "eight bytes": struct.pack("<Q", 0),
}


@pytest.mark.parametrize("data", BAD_SAFETENSORS.values(), ids=BAD_SAFETENSORS)
def test_bad_safetensors(data: bytes, model, refused) -> None:
    folder = model("hugging_face")
    (folder / "model.safetensors").write_bytes(data)
    assert "\x1b" not in (message := refused(folder))
    assert str(folder) in message


def test_safetensors_with_a_huge_header_is_not_read(model, refused) -> None:
    file = model("hugging_face") / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 4 << 30))
        stream.truncate(5 << 30)  # a hole, which takes no room on the disk
    assert file.name in refused(file.parent)


@pytest.mark.parametrize(
    "target",
    [
        "missing.safetensors", "../other.safetensors", "/etc/passwd", "..", ".", "", "x" * 500,
        "a\0b.safetensors", "tokenizer.json", "\x1b[2J.safetensors", 5, ["x"], None,
    ],
)  # fmt: skip
def test_index_that_points_elsewhere(target, model, refused) -> None:
    folder = model("indexed")
    (folder.parent / "other.safetensors").write_bytes(b"")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": target}}))
    message = refused(folder)
    assert "model.safetensors.index.json" in message or "missing.safetensors" in message


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", 5])
def test_index_without_a_map(weight_map, model, refused) -> None:
    folder = model("indexed")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert index.name in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [[], ["--bf16"], ["--chat"]], ids=str)
def test_numbers_that_are_not_finite_end_the_answer(value, options, tmp_path, refused) -> None:
    weights = random_weights(CONFIG)
    weights["layers.1.feed_forward.w2.weight"][3, 5] = value
    folder = write_meta(tmp_path / "nan", CONFIG, weights)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    assert "not finite" in refused(folder, *options)
