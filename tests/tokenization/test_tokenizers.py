"""Each tokenizer against the library that its format comes from."""

import base64
import json
from pathlib import Path

import mistral_common
import pytest
import sentencepiece
import tiktoken
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from llama_cpu.checkpoint.gguf import read_gguf
from llama_cpu.tokenization import StreamDecoder, Tokenizer
from llama_cpu.tokenization.gguf import gguf_tokenizer
from llama_cpu.tokenization.hugging_face import HuggingFaceTokenizer
from llama_cpu.tokenization.patterns import LLAMA3_PATTERN
from llama_cpu.tokenization.sentencepiece import SentencePieceTokenizer
from llama_cpu.tokenization.tiktoken import TiktokenTokenizer, looks_like_ranks
from tests.support.engine import ByteTokenizer
from tests.support.vocabularies import sentencepiece_vocabulary

TEXTS = [
    "Hello world 12345",
    "  two  spaces\n\nnew 😀 naïve 漢字",
    "def f(x):\n    return x + 1\t# it's",
    "",
    " ",
    "\n",
    "مرحبا بالعالم 👩‍👩‍👧",
]
SENTENCEPIECE_MODEL = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


@pytest.fixture(scope="module")
def sentencepiece_tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(SENTENCEPIECE_MODEL.read_bytes())


@pytest.fixture(scope="module")
def reference() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(SENTENCEPIECE_MODEL))


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def metaspace_tokenizer(reference: sentencepiece.SentencePieceProcessor) -> tokenizers.Tokenizer:
    """As transformers converts Llama 2's: a normalizer puts the space, bytes are the fallback."""
    vocabulary = {reference.id_to_piece(index): index for index in range(len(reference))}
    merges = []
    for piece, index in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((reference.get_score(index), left, right))
    merges.sort(key=lambda merge: -merge[0])
    model = models.BPE(
        vocabulary,
        [(left, right) for _, left, right in merges],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token) for token in ("<s>", "</s>")])
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece(
    text: str, sentencepiece_tokenizer: SentencePieceTokenizer, reference
) -> None:
    ids = reference.encode(text)
    assert sentencepiece_tokenizer.encode(text, specials=True) == ids
    assert sentencepiece_tokenizer.encode_prompt(text) == [1, *ids]
    # A space is put before all but the empty text.
    assert sentencepiece_tokenizer.decode(ids) == (" " + text if text else "")


def test_special_tokens_are_cut_out_longest_first() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.special_tokens = {"<s>": 1, "<s>>": 2, "a|b": 3}
    assert tokenizer.split_specials("x<s>>a|b<s>a") == ["x", 2, 3, 1, "a"]
    tokenizer = ByteTokenizer()
    tokenizer.special_tokens = {}
    assert tokenizer.split_specials("x<s>") == ["x<s>"]
    assert tokenizer.split_specials("") == []


def test_sentencepiece_specials(sentencepiece_tokenizer: SentencePieceTokenizer) -> None:
    assert sentencepiece_tokenizer.encode("<s>[INST] hi [/INST]</s>", specials=True)[0] == 1
    assert sentencepiece_tokenizer.encode("<s>hi</s>", specials=True)[-1] == 2
    as_text = sentencepiece_tokenizer.encode("<s>", specials=False)
    assert 1 not in as_text
    assert sentencepiece_tokenizer.decode(as_text) == " <s>"
    assert sentencepiece_tokenizer.decode([1, 2]) == ""
    assert sentencepiece_tokenizer.end_ids() == {2}


def test_continued_text_gets_no_space(
    sentencepiece_tokenizer: SentencePieceTokenizer, reference
) -> None:
    """Text in the middle is cut as it would have been within the whole."""
    whole = reference.encode("one\nUser: two")
    start = reference.encode("one\n")
    rest = sentencepiece_tokenizer.encode("User: two", specials=True, continued=True)
    assert start + rest == whole
    hugging_face = HuggingFaceTokenizer(metaspace_tokenizer(reference), {})
    assert hugging_face.encode("User: two", specials=True, continued=True) == rest


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_in_gguf(
    text: str, sentencepiece_tokenizer: SentencePieceTokenizer, reference
) -> None:
    tokenizer = gguf_tokenizer(sentencepiece_vocabulary(reference))
    for continued in (False, True):
        assert tokenizer.encode(
            text, specials=True, continued=continued
        ) == sentencepiece_tokenizer.encode(text, specials=True, continued=continued)
    assert tokenizer.special_tokens == sentencepiece_tokenizer.special_tokens
    assert tokenizer.adds_bos


@pytest.mark.parametrize("text", TEXTS)
def test_tiktoken_ranks(text: str) -> None:
    """Llama 3's format, with ranks of single bytes and a few merges."""
    merged = [b"He", b"Hell", b"Hello", b" w", b"or", b" wor", b"ld", b" world"]
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {token: 256 + index for index, token in enumerate(merged)}
    lines = (f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items())
    data = "\n".join(lines).encode()
    assert looks_like_ranks(data)
    assert not looks_like_ranks(SENTENCEPIECE_MODEL.read_bytes())
    tokenizer = TiktokenTokenizer(data)
    encoding = tiktoken.Encoding(
        "x", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    assert tokenizer.encode(text, specials=True) == encoding.encode(text)
    assert tokenizer.decode(encoding.encode(text)) == text
    first = len(ranks)
    assert tokenizer.n_tokens == first + 256
    assert tokenizer.encode("<|begin_of_text|><|eot_id|>", specials=True) == [first, first + 9]
    assert min(tokenizer.encode("<|eot_id|>", specials=False)) < first
    assert tokenizer.end_ids() == {first + 1, first + 8, first + 9}
    assert tokenizer.special_tokens["<|reserved_special_token_247|>"] == first + 255
    assert tokenizer.encode_prompt(text)[0] == first


@pytest.mark.parametrize("text", [*TEXTS, "a<|im_end|>b"])
def test_tokenizer_json_byte_level(text: str) -> None:
    library = byte_level_tokenizer()
    tokenizer = HuggingFaceTokenizer.parse(library.to_str(), {"eos_token": "<|im_end|>"})
    ids = library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, specials=True) == ids
    assert tokenizer.decode(ids) == text.replace("<|im_end|>", "")
    as_text = tokenizer.encode(text, specials=False)
    assert tokenizer.decode(as_text) == text
    assert tokenizer.end_ids() == {1}
    assert not tokenizer.adds_bos


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_json_like_llama_2(text: str, reference) -> None:
    library = metaspace_tokenizer(reference)
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    tokenizer = HuggingFaceTokenizer.parse(library.to_str(), settings)
    ids = tokenizer.encode(text, specials=True)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == (" " + text if text else "")
    assert tokenizer.bos_token == "<s>"


def test_demo_model_against_transformers(demo_model: Path) -> None:
    tokenizer = gguf_tokenizer(read_gguf(demo_model)[0])
    library = AutoTokenizer.from_pretrained(demo_model.parent, gguf_file=demo_model.name)
    for text in [*TEXTS, "<|im_start|>user\nHi<|im_end|>\n"]:
        expected = library.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, specials=True) == expected, text
    assert tokenizer.end_ids() == {0, 2}


@pytest.mark.parametrize("pre", ["llama-bpe", "smollm", "gpt-2", "qwen2", "tekken"])
def test_pre_tokenizers_of_gguf(pre: str) -> None:
    library = byte_level_tokenizer()
    description = json.loads(library.to_str())["model"]
    tokens = sorted(description["vocab"], key=description["vocab"].get)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in description["merges"]],
    }
    tokenizer = gguf_tokenizer(metadata)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, specials=True)) == text
    if pre != "gpt-2":  # it alone keeps a run of digits in one piece
        together = tokenizer.encode("1234567", specials=True)
        digits = 1 if pre != "llama-bpe" else 3
        pieces = [tokenizer.token_bytes(index) for index in together]
        assert max(map(len, pieces)) <= digits
    metadata["tokenizer.ggml.pre"] = "nobody knows"
    with pytest.raises(ValueError, match="nobody knows"):
        gguf_tokenizer(metadata)


@pytest.mark.parametrize("text", TEXTS)
def test_stream_decoder_never_shows_half_a_character(
    text: str, sentencepiece_tokenizer: SentencePieceTokenizer
) -> None:
    tokenizer: Tokenizer = sentencepiece_tokenizer
    ids = tokenizer.encode(text, specials=False)
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(index) for index in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_stream_decoder_replaces_what_never_became_a_character(
    sentencepiece_tokenizer: SentencePieceTokenizer,
) -> None:
    stream = StreamDecoder(sentencepiece_tokenizer)
    ids = range(sentencepiece_tokenizer.n_tokens)
    first_of_four = next(i for i in ids if sentencepiece_tokenizer.token_bytes(i) == b"\xf0")
    assert stream.push(first_of_four) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_special_tokens_that_a_converter_called_user_defined(kind: str, reference) -> None:
    if kind == "llama":
        metadata = sentencepiece_vocabulary(reference)
    else:
        description = json.loads(byte_level_tokenizer().to_str())["model"]
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": sorted(description["vocab"], key=description["vocab"].get),
            "tokenizer.ggml.merges": [" ".join(merge) for merge in description["merges"]],
        }
        metadata["tokenizer.ggml.token_type"] = [1] * len(metadata["tokenizer.ggml.tokens"])
    tokens = [*metadata["tokenizer.ggml.tokens"], "<|stop|>", "end!"]
    metadata["tokenizer.ggml.tokens"] = tokens
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 4, 4]
    if "tokenizer.ggml.scores" in metadata:
        metadata["tokenizer.ggml.scores"] = [*metadata["tokenizer.ggml.scores"], 0.0, 0.0]
    metadata["tokenizer.ggml.eos_token_id"] = len(tokens) - 2
    metadata["tokenizer.ggml.eot_token_id"] = len(tokens) - 1
    tokenizer = gguf_tokenizer(metadata)
    assert {len(tokens) - 2, len(tokens) - 1} <= tokenizer.end_ids()
    assert tokenizer.token_bytes(len(tokens) - 2) == b""
    assert tokenizer.encode("<|stop|>", specials=True)[-1] == len(tokens) - 2
    assert len(tokens) - 2 not in tokenizer.encode("<|stop|>", specials=False)
