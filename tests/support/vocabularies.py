"""Tiny tokenizers, each of 320 tokens or fewer, for the models of tests.support.checkpoints."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from llama_cpu.tokenization.base import BYTE_OF_SYMBOL
from tests.support.texts import PARTS

N_TOKENS = 320


def write_ranks(path: Path, n_ranks: int = 256) -> Path:
    """A Llama 3 tokenizer.model: the single bytes, then pairs of letters; and 256 specials."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes([97 + index // 26, 97 + index % 26]) for index in range(n_ranks - 256)]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    path.write_bytes(b"".join(lines))
    return path


def sentencepiece_model(normalization: str = "identity") -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 10),
        model_writer=model,
        vocab_size=N_TOKENS,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name=normalization,
        minloglevel=2,
    )
    return model.getvalue()


def byte_level_vocabulary() -> list[str]:
    """Two specials, the 256 bytes and two merges of them."""
    symbols = sorted(BYTE_OF_SYMBOL, key=lambda symbol: BYTE_OF_SYMBOL[symbol])
    return ["<s>", "</s>", *symbols, "th", "the"]


def tokenizer_json() -> dict[str, Any]:
    vocabulary = byte_level_vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": vocabulary[index], "special": True} | special
            for index in (0, 1)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": True},
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(vocabulary)},
            "merges": ["t h", "th e"],
        },
    }


def tekken_json() -> dict[str, Any]:
    """A tekken.json of 320 tokens: 64 control tokens and the single bytes."""
    return {
        "config": {
            "pattern": r"\p{L}+|\p{N}|[^\p{L}\p{N}]+",
            "default_vocab_size": N_TOKENS,
            "default_num_special_tokens": N_TOKENS - 256,
            "version": "v3",
        },
        "vocab": [
            {"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode()}
            for byte in range(256)
        ],
    }


def write_tokenizer_json(folder: Path, **settings: Any) -> Path:
    """tokenizer.json, and tokenizer_config.json with ``settings``."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json()))
    values = {"bos_token": "<s>", "eos_token": "</s>"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return path


def gguf_vocabulary(kind: str = "gpt2") -> dict[str, Any]:
    """The metadata of a vocabulary of the kind "gpt2" (byte-level) or "llama" (sentencepiece)."""
    if kind == "gpt2":
        tokens = byte_level_vocabulary()
        values: dict[str, Any] = {
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.merges": ["t h", "th e"],
            "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        }
    else:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens += ["▁", "t", "h", "e", "th", "▁th"]
        types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
        values = {
            "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
            "tokenizer.ggml.token_type": types,
        }
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
        "tokenizer.ggml.add_bos_token": True,
        **values,
    }


# From the models' tokenizer.json files: the patterns of their pre-tokenizers and added tokens,
# with whether they are special.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMOLLM3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TOKENS = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<think>": False,
    "</think>": False,
}


def trained_tokenizer(
    pattern: str = QWEN_PATTERN,
    added: dict[str, bool] = QWEN_TOKENS,
    *,
    vocab_size: int = 640,
    nfc: bool = True,
) -> tokenizers.Tokenizer:
    """A byte-level BPE like Qwen's or SmolLM3's, trained on a few texts; added tokens are last."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*PARTS, *(f" {part} thinking about {part}s\n\n" for part in PARTS)]
    tokenizer.train_from_iterator(texts * 3, trainer)
    tokenizer.add_tokens(
        [
            AddedToken(text, special=special, normalized=False, single_word=False)
            for text, special in added.items()
        ]
    )
    return tokenizer


def id_of(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    assert index is not None, token
    return index


def gguf_vocabulary_of(tokenizer: tokenizers.Tokenizer, pre: str, eos: str) -> dict[str, Any]:
    """The metadata that a converter makes of a byte-level tokenizer.json; ``pre``: its name."""
    description = json.loads(tokenizer.to_str())
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=lambda token: ids[token])
    special = {entry["content"]: entry["special"] for entry in description["added_tokens"]}
    types = [{True: 3, False: 4}[special[token]] if token in special else 1 for token in tokens]
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in description["model"]["merges"]
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": ids[eos],
        "tokenizer.ggml.add_bos_token": False,
    }


def sentencepiece_vocabulary(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """The GGUF metadata of a sentencepiece model."""

    def kind(index: int) -> int:
        if model.is_unknown(index):
            return 2
        if model.is_control(index):
            return 3
        return 6 if model.is_byte(index) else 1

    indices = range(len(model))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(index) for index in indices],
        "tokenizer.ggml.scores": [model.get_score(index) for index in indices],
        "tokenizer.ggml.token_type": [kind(index) for index in indices],
    }
