"""Tokenizers of GGUF files: each kind of vocabulary is passed to the library it was made with.

The keys ``tokenizer.ggml.*`` are documented in ggml, docs/gguf.md; the names of the pre-tokenizers
are those of llama.cpp.
"""

import struct
from collections.abc import Mapping
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from llama_cpu.tokenization.base import SHOWN_TOKENS, Tokenizer
from llama_cpu.tokenization.hugging_face import HuggingFaceTokenizer
from llama_cpu.tokenization.patterns import LLAMA3_PATTERN, QWEN2_PATTERN, TEKKEN_PATTERN
from llama_cpu.tokenization.sentencepiece import SentencePieceTokenizer

T = TypeVar("T")

# tokenizer.ggml.token_type has the same numbers as sentencepiece_model.proto.
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6

# Control tokens such as <|im_end|>, and DeepSeek's with a fullwidth bar.
_CONTROL_BEGINS, _CONTROL_ENDS = ("<|", "<\uff5c"), ("|>", "\uff5c>")


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a GGUF file.

    Raises ValueError if the vocabulary is of an unknown kind or damaged.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _listed(metadata, "tokens", str)
    if not tokens:
        raise ValueError("it holds no vocabulary")
    readers = {"llama": _sentencepiece, "gpt2": _byte_level}
    if kind not in readers:
        raise ValueError(f"its kind of vocabulary, {str(kind)[:40]!r}, is not supported")
    tokenizer = readers[kind](metadata, tokens, _types(metadata, tokens))
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
    tokenizer.end_tokens = tuple(_token(tokens, index) for index in ends if index is not None)
    return tokenizer


def _types(metadata: Mapping[str, Any], tokens: list[str]) -> list[int]:
    """Return the types of the tokens, with those of control tokens and shown tokens corrected.

    Early converters mark all added tokens as user-defined, including ``<|im_end|>``.
    """
    types = _listed(metadata, "token_type", int) or [1] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError("tokens and their types differ in number")
    names = ("bos", "eos", "eot", "eom")
    special = {metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names}
    for index, (token, type_) in enumerate(zip(tokens, types, strict=True)):
        looks_special = token[:2] in _CONTROL_BEGINS and token[-2:] in _CONTROL_ENDS
        if index in special or (type_ == _USER_DEFINED and looks_special):
            types[index] = _CONTROL
        elif token in SHOWN_TOKENS:
            types[index] = _USER_DEFINED
    return types


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    scores = _listed(metadata, "scores", float) or [0.0] * len(tokens)
    if len(scores) != len(tokens):
        raise ValueError("tokens and their scores differ in number")
    model = b"".join(
        _message(1, _string(1, token) + _float(2, score) + _varint(3, type_))
        for token, score, type_ in zip(tokens, scores, types, strict=True)
    )
    ids = {
        40: _id(metadata, "unknown_token_id", 0),
        41: _id(metadata, "bos_token_id", 1),
        42: _id(metadata, "eos_token_id", 2),
    }
    bpe, byte_fallback = _varint(3, 2), _varint(35, _BYTE in types)
    # sentencepiece looks up its special tokens by text, not by id.
    names = {45: ids[40], 46: ids[41], 47: ids[42]}
    specials = b"".join(_varint(field, value) for field, value in ids.items())
    specials += b"".join(
        _string(field, tokens[value]) for field, value in names.items() if value < len(tokens)
    )
    model += _message(2, bpe + byte_fallback + specials)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    model += _message(3, _string(1, "identity") + _varint(3, bool(prefix)) + _varint(4, 0))
    return SentencePieceTokenizer(model, metadata.get("tokenizer.ggml.add_bos_token", True))


# The wire format of protocol buffers: each field is a key, field << 3 | wire type, and a value.


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(int(value))


def _float(field: int, value: float) -> bytes:
    return _number(field << 3 | 5) + struct.pack("<f", value)


def _string(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, body: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(body)) + body


def _number(value: int) -> bytes:
    """Encode a varint: seven bits per byte, lowest first; the top bit is set except in the last."""
    if value < 0:
        raise ValueError("a token id is negative")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    if "tokenizer.ggml.merges" not in metadata:
        raise ValueError("it holds no merges")
    merges = [merge.partition(" ") for merge in _listed(metadata, "merges", str)]
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    pre_tokenizer = _pre_tokenizer(pre)
    pairs = [(left, right) for left, _, right in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        model = models.BPE(vocabulary, pairs, ignore_merges=pre in _WHOLE_WORDS)
    except Exception as error:  # the library raises bare Exception
        raise ValueError("its merges do not fit its vocabulary") from error
    tokenizer = tokenizers.Tokenizer(model)
    if pre in _QWEN2_NAMES:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    controls = [
        AddedToken(token, special=type_ == _CONTROL, normalized=False)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(controls)
    hugging_face = HuggingFaceTokenizer(
        tokenizer,
        {
            "bos_token": _token(tokens, metadata.get("tokenizer.ggml.bos_token_id")),
            "eos_token": _token(tokens, metadata.get("tokenizer.ggml.eos_token_id")),
        },
    )
    # In early files of Llama 3 the field for the bos token at the beginning of a prompt is missing.
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", pre in _ADDS_BOS)
    hugging_face.adds_bos = bool(adds_bos) and hugging_face.bos_token in hugging_face.special_tokens
    return hugging_face


# smaug-bpe is also used by SmolLM3: Llama 3's pattern and vocabulary, but no bos token.
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "dbrx", "smaug-bpe")
_QWEN2_NAMES = ("qwen2", "deepseek-r1-qwen", "megrez")
_WHOLE_WORDS = (*_LLAMA3_NAMES, "tekken")  # a word that is in the vocabulary is not merged
_ADDS_BOS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken")


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """Return the splitter of text into words, across which BPE does not merge.

    ``name``: the value of ``tokenizer.ggml.pre``. Raises ValueError if it is not known.
    """
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2", "gpt2", "phi-2", "jina-es", "jina-de"):
        return gpt2
    if name in ("smollm", "starcoder", "refact", "command-r", "codeshell"):
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt2])
    patterns = dict.fromkeys(_LLAMA3_NAMES, LLAMA3_PATTERN)
    patterns |= dict.fromkeys(_QWEN2_NAMES, QWEN2_PATTERN)
    patterns["tekken"] = TEKKEN_PATTERN
    if name not in patterns:
        raise ValueError(f"its pre-tokenizer {str(name)[:40]!r} is not known")
    split = pre_tokenizers.Split(Regex(patterns[name]), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, plain])


def _listed(metadata: Mapping[str, Any], name: str, kind: type[T]) -> list[T]:
    """Return a list from the metadata, or [] if it is missing. Raises ValueError.

    Only the first value is checked, because all values of a GGUF list have one type.
    """
    values: Any = metadata.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(values, list) or (values and not isinstance(values[0], kind)):
        raise ValueError(f"its {name} are of the wrong type")
    return list(values)


def _id(metadata: Mapping[str, Any], name: str, default: int) -> int:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, int):
        raise ValueError(f"its {name} is not a number")
    return value


def _token(tokens: list[str], index: Any) -> str:
    return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else ""
