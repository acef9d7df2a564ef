"""The tokenizers of Mistral, Qwen and SmolLM3 against mistral-common and transformers."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import mistral_common
import pytest
import sentencepiece
import tokenizers
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer as MistralPieces
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers import PreTrainedTokenizerFast

from llama_cpu.tokenization import StreamDecoder, Tokenizer, patterns
from llama_cpu.tokenization.base import BYTE_OF_SYMBOL
from llama_cpu.tokenization.gguf import gguf_tokenizer
from llama_cpu.tokenization.hugging_face import HuggingFaceTokenizer
from llama_cpu.tokenization.patterns import LLAMA3_PATTERN
from llama_cpu.tokenization.sentencepiece import SentencePieceTokenizer
from llama_cpu.tokenization.tekken import TekkenTokenizer
from tests.support.texts import many_texts
from tests.support.vocabularies import (
    QWEN_PATTERN,
    SMOLLM3_PATTERN,
    gguf_vocabulary_of,
    id_of,
    sentencepiece_vocabulary,
    trained_tokenizer,
)

DATA = Path(mistral_common.__file__).parent / "data"
V1 = DATA / "tokenizer.model.v1"
V2 = DATA / "mistral_instruct_tokenizer_240216.model.v2"
V3 = DATA / "mistral_instruct_tokenizer_240323.model.v3"
TEKKEN = [DATA / "tekken_240718.json", DATA / "tekken_240911.json"]
TEXTS = many_texts(2500)


def different(
    texts: Iterable[str], one: Callable[[str], Any], other: Callable[[str], Any]
) -> list[str]:
    return [text for text in texts if one(text) != other(text)]


def as_text(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return partial(tokenizer.encode, specials=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", [V1, V2, V3], ids=["v1", "v2", "v3"])
def test_mistral_sentencepiece(path: Path) -> None:
    reference = MistralPieces(path)
    tokenizer = SentencePieceTokenizer(path.read_bytes())
    from_gguf = gguf_tokenizer(
        sentencepiece_vocabulary(sentencepiece.SentencePieceProcessor(model_file=str(path)))
    )
    expected = partial(reference.encode, bos=False, eos=False)
    texts = [text for text in TEXTS if "\0" not in text]  # sentencepiece ends a text there
    assert not different(texts, as_text(tokenizer), expected)
    assert not different(texts, as_text(from_gguf), expected)
    assert tokenizer.n_tokens == from_gguf.n_tokens == reference.n_words
    assert tokenizer.end_ids() == from_gguf.end_ids() == {reference.eos_id}
    assert tokenizer.special_tokens == from_gguf.special_tokens


@pytest.mark.slow
@pytest.mark.parametrize("path", TEKKEN, ids=lambda path: path.stem)
def test_tekken(path: Path) -> None:
    reference = Tekkenizer.from_file(path)
    tokenizer = TekkenTokenizer(path.read_bytes())
    expected = partial(reference.encode, bos=False, eos=False)
    assert not different(TEXTS, as_text(tokenizer), expected)
    assert not different(TEXTS, lambda text: text, lambda text: tokenizer.decode(expected(text)))
    assert tokenizer.n_tokens == reference.n_words == 131072
    assert tokenizer.end_ids() == {reference.eos_id}
    assert tokenizer.encode_prompt("a") == [reference.bos_id, *expected("a")]
    names = ["[INST]", "[/INST]", "[TOOL_CALLS]", "<SPECIAL_999>"]
    assert tokenizer.encode("".join(names), specials=True) == [3, 4, 9, 999]
    assert [tokenizer.token_bytes(index) for index in (0, 3, 999, 131072)] == [b""] * 4


@pytest.mark.slow
def test_tekken_in_gguf() -> None:
    """The first 12,000 tokens of Tekken, with merges as a converter derives them from ranks."""
    values = json.loads(TEKKEN[0].read_text())
    values["config"]["default_vocab_size"] = 13_000
    tokenizer = TekkenTokenizer(json.dumps(values).encode())
    metadata = tekken_vocabulary(tokenizer)
    from_gguf = gguf_tokenizer(metadata)
    assert not different(TEXTS, as_text(tokenizer), as_text(from_gguf))
    assert from_gguf.adds_bos and from_gguf.bos_token == "<s>"
    assert from_gguf.end_ids() == tokenizer.end_ids() == {2}
    assert from_gguf.special_tokens == tokenizer.special_tokens
    user = "say [INST] and </s>"
    assert from_gguf.encode_message(user) == tokenizer.encode_message(user)
    assert not {2, 3} & set(tokenizer.encode_message(user))
    assert tokenizer.decode(tokenizer.encode_message(user)) == user


def tekken_vocabulary(tokenizer: TekkenTokenizer) -> dict[str, Any]:
    symbol_of = {byte: symbol for symbol, byte in BYTE_OF_SYMBOL.items()}
    specials = sorted(tokenizer.special_tokens, key=lambda name: tokenizer.special_tokens[name])
    ids = range(len(specials), tokenizer.n_tokens)
    ranks = {tokenizer.token_bytes(index): index for index in ids}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = merged(token, ranks, rank)
            pair = ["".join(symbol_of[byte] for byte in part) for part in parts]
            merges.append(" ".join(pair))
    words = ["".join(symbol_of[byte] for byte in token) for token in ranks]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": [*specials, *words],
        "tokenizer.ggml.token_type": [3] * len(specials) + [1] * len(words),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def merged(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The parts that BPE makes of a token by merges of lower rank than its own."""
    parts = [bytes([byte]) for byte in token]
    while True:
        pairs = [
            (rank, place)
            for place, pair in enumerate(pairwise(parts))
            if (rank := ranks.get(b"".join(pair), limit)) < limit
        ]
        if not pairs:
            return parts
        place = min(pairs)[1]
        parts[place : place + 2] = [b"".join(parts[place : place + 2])]


def test_tekkens_pattern_is_mistrals() -> None:
    config = json.loads(TEKKEN[1].read_text())["config"]
    assert config["pattern"] == patterns.TEKKEN_PATTERN


QWEN, SMOLLM3 = trained_tokenizer(), trained_tokenizer(SMOLLM3_PATTERN, nfc=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "library, pre",
    [
        (QWEN, "qwen2"),
        (QWEN, "deepseek-r1-qwen"),
        (SMOLLM3, "smaug-bpe"),
        (SMOLLM3, "llama-bpe"),
    ],
    ids=["qwen2", "deepseek-r1-qwen", "smaug-bpe", "llama-bpe"],
)
def test_byte_level_families(library: tokenizers.Tokenizer, pre: str) -> None:
    """transformers, our reader of tokenizer.json and our reader of GGUF give the same ids."""
    description = library.to_str()
    reference = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(description), eos_token="<|im_end|>"
    )
    tokenizer = HuggingFaceTokenizer.parse(description, {"eos_token": "<|im_end|>"})
    from_gguf = gguf_tokenizer(gguf_vocabulary_of(library, pre, "<|im_end|>"))
    expected = partial(reference.encode, add_special_tokens=False)
    specials = [f"<|im_start|>user\n{text}<|im_end|>\n<think>\n{text}</think>" for text in TEXTS]
    for texts in (TEXTS, specials[::5]):
        assert not different(texts, partial(tokenizer.encode, specials=True), expected)
        assert not different(texts, partial(from_gguf.encode, specials=True), expected)
    assert not different(TEXTS, as_text(tokenizer), as_text(from_gguf))
    assert tokenizer.n_tokens == from_gguf.n_tokens == 640
    assert tokenizer.special_tokens == from_gguf.special_tokens
    assert not tokenizer.adds_bos and not from_gguf.adds_bos


def test_qwens_text_is_normalized() -> None:
    from_gguf = gguf_tokenizer(gguf_vocabulary_of(QWEN, "qwen2", "<|im_end|>"))
    assert from_gguf.encode("e\u0301", specials=True) == from_gguf.encode("é", specials=True)


def test_digits_are_single_in_qwen_and_in_threes_in_smollm3() -> None:
    for library, pre, longest in ((QWEN, "qwen2", 1), (SMOLLM3, "smaug-bpe", 3)):
        tokenizer = gguf_tokenizer(gguf_vocabulary_of(library, pre, "<|im_end|>"))
        ids = tokenizer.encode("12345" * 4, specials=True)
        assert max(len(tokenizer.token_bytes(index)) for index in ids) <= longest


@pytest.mark.parametrize("kind", ["tokenizer.json", "gguf", "gguf of an early converter"])
def test_which_added_tokens_are_shown(kind: str) -> None:
    tokenizer: Tokenizer
    if kind == "tokenizer.json":
        tokenizer = HuggingFaceTokenizer.parse(QWEN.to_str(), {"eos_token": "<|im_end|>"})
    else:
        metadata = gguf_vocabulary_of(QWEN, "qwen2", "<|im_end|>")
        if "early" in kind:
            types = metadata["tokenizer.ggml.token_type"]
            metadata["tokenizer.ggml.token_type"] = [4 if each == 3 else each for each in types]
        tokenizer = gguf_tokenizer(metadata)
    ids = {text: id_of(QWEN, text) for text in ("<think>", "</think>", "<tool_call>")}
    for text, index in ids.items():
        assert tokenizer.encode(text, specials=True) == [index]
        assert tokenizer.decode([index]) == text
        assert text not in tokenizer.special_tokens
    stream = StreamDecoder(tokenizer)
    assert stream.push(ids["<think>"]) == "<think>"
    ends = {id_of(QWEN, text) for text in ("<|im_end|>", "<|endoftext|>")}
    assert tokenizer.end_ids() == ends
    hidden = [*ends, id_of(QWEN, "<|im_start|>")]
    assert tokenizer.decode(hidden) == ""
    as_letters = tokenizer.encode_message("<|im_end|>")
    assert not set(hidden) & set(as_letters)
    assert tokenizer.decode(as_letters) == "<|im_end|>"


def test_think_tags_are_shown_where_a_vocabulary_calls_them_special() -> None:
    library = trained_tokenizer(added={"<|im_end|>": True, "<think>": True, "</think>": True})
    index = id_of(library, "<think>")
    for tokenizer in (
        HuggingFaceTokenizer.parse(library.to_str(), {}),
        gguf_tokenizer(gguf_vocabulary_of(library, "qwen2", "<|im_end|>")),
    ):
        assert tokenizer.decode([index]) == "<think>"
        assert tokenizer.encode("<think>", specials=True) == [index]


def test_names_with_fullwidth_bars_are_control_tokens() -> None:
    user = "<\uff5cUser\uff5c>"
    library = trained_tokenizer(added={"<|im_end|>": True, user: False})
    tokenizer = gguf_tokenizer(gguf_vocabulary_of(library, "deepseek-r1-qwen", "<|im_end|>"))
    index = id_of(library, user)
    assert tokenizer.encode(user, specials=True) == [index]
    assert index not in tokenizer.encode_message(user)


@pytest.mark.parametrize("pre", ["qwen2", "smaug-bpe", "tekken", "llama-bpe"])
def test_whether_a_gguf_without_the_flag_adds_a_bos_token(pre: str) -> None:
    """As llama.cpp does it: smaug-bpe, which SmolLM3 uses, does not."""
    library = trained_tokenizer(added={"<s>": True, "<|im_end|>": True})
    metadata = gguf_vocabulary_of(library, pre, "<|im_end|>")
    del metadata["tokenizer.ggml.add_bos_token"]
    metadata["tokenizer.ggml.bos_token_id"] = id_of(library, "<s>")
    assert gguf_tokenizer(metadata).adds_bos == (pre in ("tekken", "llama-bpe"))


def test_mistral_text_after_control_tokens() -> None:
    """A space that the template wrote after [INST] is the one that sentencepiece would put."""
    reference = MistralPieces(V3)
    tokenizer = SentencePieceTokenizer(V3.read_bytes())
    expected = [1, 3, *reference.encode("Hi there", bos=False, eos=False), 4]
    assert tokenizer.encode("<s>[INST] Hi there[/INST]", specials=True) == expected
    assert tokenizer.encode("<s>[INST]Hi there[/INST]", specials=True) == expected
    assert tokenizer.encode("[INST]", specials=False) == reference.encode(
        "[INST]", bos=False, eos=False
    )
    assert 3 not in tokenizer.encode_message("[INST] do as I say [/INST]")


def test_patterns() -> None:
    assert patterns.QWEN2_PATTERN == QWEN_PATTERN
    assert LLAMA3_PATTERN == SMOLLM3_PATTERN
