"""Tokenizer files: damaged, of another model, or missing."""

import base64
import json
from pathlib import Path

import pytest
import tokenizers

from llama_cpu.errors import UserError
from llama_cpu.system.limited_process import LimitedProcess
from llama_cpu.tokenization.hugging_face import HuggingFaceTokenizer
from llama_cpu.tokenization.tekken import TekkenTokenizer
from llama_cpu.tokenization.tiktoken import TiktokenTokenizer
from tests.bad_input.test_json_files import change_json
from tests.support.vocabularies import (
    sentencepiece_model,
    tekken_json,
    tokenizer_json,
    write_ranks,
)


def test_missing(model, refused) -> None:
    folder = model("meta")
    (folder / "tokenizer.model").unlink()
    assert "tokenizer.model" in refused(folder)
    assert "nowhere" in refused(folder, "--tokenizer_path", str(folder / "nowhere"))


RANKS = b"".join(b"%s %d\n" % (b"AA==", index) for index in range(3))
GARBAGE = {
    "empty": b"",
    "zeros": b"\0" * 1000,
    "text": b"this is not a tokenizer",
    "all bytes": bytes(range(256)) * 16,
    "half a sentencepiece model": sentencepiece_model()[:2000],
    "ranks that are one token": RANKS,
    "a rank without a number": b"AA== 0\nAQ==\n",
    "a rank that is not base64": b"AA== 0\n*** 1\n",
    "a rank of many digits": b"AA== " + b"9" * 5000,
    "ranks without single bytes": b"YWI= 0\nYWM= 1\n",
    "a piece that is not UTF-8": sentencepiece_model().replace(b"\xe2\x96\x81", b"\x96\x96\x96"),
    "one piece and no more": b"\n\x02\x08\x01",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_for_tokenizer_model(garbage: bytes, model, refused) -> None:
    folder = model("meta")
    (folder / "tokenizer.model").write_bytes(garbage)
    assert "tokenizer.model" in refused(folder)


def test_vocabulary_of_another_model(model, refused) -> None:
    folder = model("meta")
    write_ranks(folder / "tokenizer.model")
    message = refused(folder)
    assert "512" in message and "320" in message and "tokenizer.model" in message


def test_ranks_that_end_early_are_not_taken(tmp_path: Path) -> None:
    lines = write_ranks(tmp_path / "r").read_bytes().splitlines(keepends=True)
    with pytest.raises(ValueError):
        TiktokenTokenizer(b"".join(lines[:200]))


def test_a_run_that_the_pattern_gives_up_on(tmp_path: Path) -> None:
    tokenizer = TiktokenTokenizer(write_ranks(tmp_path / "r").read_bytes())
    with pytest.raises(UserError):
        tokenizer.encode(" " * (1 << 22), specials=True)


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[]", b'{"model": 5}', b"\xff", b"[" * 100_000])
def test_garbage_for_tokenizer_json(garbage: bytes, model, refused) -> None:
    folder = model("hugging_face")
    (folder / "tokenizer.json").write_bytes(garbage)
    assert "tokenizer.json" in refused(folder)


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[]", b'{"config": 5}', b"\xff", b"[" * 100_000])
def test_garbage_for_tekken_json(garbage: bytes, model, refused) -> None:
    folder = model("hugging_face")
    (folder / "tokenizer.json").unlink()
    (folder / "tekken.json").write_bytes(garbage)
    assert "tekken.json" in refused(folder)


def test_tekken_json_is_taken(model, answers) -> None:
    folder = model("hugging_face")
    (folder / "tokenizer.json").unlink()
    (folder / "tekken.json").write_text(json.dumps(tekken_json()))
    answers(folder)


TEKKEN_CHANGES = {
    "no vocabulary": {"vocab": []},
    "a vocabulary of the wrong type": {"vocab": {"a": 1}},
    "tokens without bytes": {"vocab": [{"rank": 0}] * 256},
    "bytes that are not base64": {"vocab": [{"rank": 0, "token_bytes": "*"}] * 256},
    "the same token twice": {"vocab": [{"rank": 0, "token_bytes": "AA=="}] * 256},
    "ranks out of order": {"vocab": list(reversed(tekken_json()["vocab"]))[1:] * 2},
    "control tokens of the wrong type": {"special_tokens": [1, 2]},
    "control tokens out of order": {"special_tokens": [{"rank": 1, "token_str": "a"}]},
    "a control token without a name": {"special_tokens": [{"rank": 0, "token_str": ""}]},
    "a control token twice": {
        "special_tokens": [{"rank": index, "token_str": "a"} for index in (0, 1)]
    },
    "more control tokens than there may be": {
        "special_tokens": [{"rank": index, "token_str": str(index)} for index in range(65)]
    },
    "no configuration": {"config": None},
    "no pattern": {"config": tekken_json()["config"] | {"pattern": 5}},
    "a damaged pattern": {"config": tekken_json()["config"] | {"pattern": "("}},
    "a negative size": {"config": tekken_json()["config"] | {"default_vocab_size": -1}},
    "a huge size": {"config": tekken_json()["config"] | {"default_vocab_size": 1 << 40}},
    "more control tokens than tokens": {
        "config": tekken_json()["config"] | {"default_num_special_tokens": 1 << 20}
    },
}


@pytest.mark.parametrize("change", TEKKEN_CHANGES.values(), ids=TEKKEN_CHANGES)
def test_damaged_tekken_json(change: dict) -> None:
    with pytest.raises(ValueError):
        TekkenTokenizer(json.dumps(tekken_json() | change).encode())


CHANGES = {
    "merges of unknown tokens": {"merges": ["x y z"]},
    "merges of the wrong type": {"merges": 5},
    "a vocabulary of text": {"vocab": "abc"},
    "negative ids": {"vocab": {"a": -1}},
    "huge ids": {"vocab": {"a": 4_000_000_000}},
    "empty vocabulary": {"vocab": {}, "merges": []},
    "unknown kind": {"type": "Magic"},
    "a prefix that panics": {"continuing_subword_prefix": "xx"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_damaged_tokenizer_json(change: dict, model, refused) -> None:
    folder = model("hugging_face")
    values = tokenizer_json()
    values["model"] |= change
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert "tokenizer.json" in refused(folder)


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*parts: dict) -> dict:
    return {"type": "Sequence", "normalizers": list(parts)}


def split(regex: str) -> dict:
    behavior = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": regex}, **behavior}


# Too large once they are used; the library takes a minute or fills the memory.
BOMBS = {
    "doubled": sequence(*[replace({"String": "a"}, "aa")] * 30),
    "doubled 45 times": sequence(*[replace({"String": "a"}, "aa")] * 45),
    "nested": sequence(sequence(*[sequence(replace({"String": "a"}, "a" * 30))] * 6)),
    "long prefixes": sequence(*[{"type": "Prepend", "prepend": "x" * 1000}] * 3000),
    "a long prefix": {"type": "Prepend", "prepend": "x" * 100_000_000},
    "an empty pattern": sequence(*[replace({"Regex": ""}, "x" * 100)] * 4),
    "bytes as letters": sequence(*[{"type": "ByteLevel"}] * 30),
    "a map with a long text": {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(bytes(4) + b"x" * 3000 + b"\0").decode(),
    },
    "not an object": 5,
    "a long pattern": replace({"Regex": "a" * 5000}, "x"),
}


@pytest.mark.parametrize("normalizer", BOMBS.values(), ids=BOMBS)
def test_normalizers_that_grow(normalizer, model, refused, monkeypatch) -> None:
    def read(data: str) -> None:
        raise AssertionError("the library was given the file")

    monkeypatch.setattr("tokenizers.Tokenizer.from_str", read)
    folder = model("hugging_face")
    values = tokenizer_json() | {"normalizer": normalizer}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert "tokenizer.json" in refused(folder)


ORDINARY = {
    "Llama 2": sequence(
        {"type": "Prepend", "prepend": "\u2581"}, replace({"String": " "}, "\u2581")
    ),
    "Qwen": {"type": "NFC"},
    "many": sequence(*[{"type": "NFKC"}, {"type": "Lowercase"}] * 3),
}


@pytest.mark.parametrize("normalizer", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_normalizers(normalizer, model, answers, monkeypatch) -> None:
    monkeypatch.setattr(LimitedProcess, "ask", lambda *_: pytest.fail("a process was started"))
    folder = model("hugging_face")
    values = tokenizer_json() | {"normalizer": normalizer}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    answers(folder)


def test_panics_are_not_printed(capfd) -> None:
    values = tokenizer_json() | {"pre_tokenizer": split(r"(?:(a+)+)+\1c")}
    tokenizer = HuggingFaceTokenizer.parse(json.dumps(values), {})
    with pytest.raises(UserError):
        tokenizer.encode("a" * 40 + "b", specials=True)
    values["model"] |= CHANGES["a prefix that panics"]
    with pytest.raises(ValueError):
        HuggingFaceTokenizer.parse(json.dumps(values), {})
    assert not capfd.readouterr().err


def test_a_pattern_that_never_ends(model, refused, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.tokenization.hugging_face.ENCODE_SECONDS", 2.0)
    folder = model("hugging_face")
    values = tokenizer_json() | {"pre_tokenizer": split(r"(?:a*a*)b|a")}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert "too long" in refused(folder, prompt="a" * 3000)


def test_an_unknown_pattern_gives_the_same_ids_as_the_library(model) -> None:
    values = tokenizer_json() | {"pre_tokenizer": split("[a-m]+")}
    data = json.dumps(values)
    library = tokenizers.Tokenizer.from_str(data)
    tokenizer = HuggingFaceTokenizer.parse(data, {})
    for text in ("hello world", "the <s> moon", ""):
        assert tokenizer.encode(text, specials=True) == library.encode(text).ids
    assert tokenizer.n_tokens == library.get_vocab_size()


def test_text_that_a_tokenizer_json_has_no_token_for(model, refused) -> None:
    folder = model("hugging_face")
    values = tokenizer_json()
    vocabulary = values["model"]["vocab"]
    values["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<gone>"}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert "tokenizer.json" in refused(folder, prompt="unheard of")


@pytest.mark.parametrize(
    "template",
    [5, True, {"default": "x"}, ["x"], [{"name": "default", "template": 5}]],
    ids=str,
)
def test_a_template_that_is_not_text(template, model, refused) -> None:
    folder = model("hugging_face")
    change_json(folder / "tokenizer_config.json", {"chat_template": template})
    assert "tokenizer_config.json" in refused(folder, "--chat")


@pytest.mark.parametrize("value", [5, [], {"content": 5}, "\ud800", ""], ids=repr)
def test_odd_names_of_tokens_are_let_through(value, model, answers) -> None:
    folder = model("hugging_face")
    change_json(folder / "tokenizer_config.json", {"bos_token": value, "eos_token": value})
    answers(folder)
