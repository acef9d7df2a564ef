"""``tokenizer.model`` of Llama 3: ranks of byte sequences, using the tiktoken library."""

import base64
import re

import tiktoken

from llama_cpu.errors import UserError
from llama_cpu.tokenization.base import Tokenizer
from llama_cpu.tokenization.patterns import LLAMA3_PATTERN

_N_SPECIAL = 256
_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
# Llama 3.1's control tokens, by distance from the last rank; the others are reserved.
_SPECIAL_NAMES = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}


def looks_like_ranks(data: bytes) -> bool:
    """Return whether a tokenizer.model is a list of ranks: base64, a space, a number."""
    return _RANK_LINE.fullmatch(data[:200].split(b"\n", 1)[0].rstrip()) is not None


class TiktokenTokenizer(Tokenizer):
    """Llama 3's vocabulary. Raises ValueError if a line of the file is not a rank."""

    adds_bos = True
    bos_token = "<|begin_of_text|>"
    eos_token = "<|end_of_text|>"

    def __init__(self, data: bytes) -> None:
        ranks: dict[bytes, int] = {}
        for line in data.splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
        self.special_tokens = _special_tokens(len(ranks))
        self.n_tokens = len(ranks) + _N_SPECIAL
        self._first_special = len(ranks)
        self._encoding = encoding_of("llama-3", LLAMA3_PATTERN, ranks)

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        ids: list[int] = []
        for piece in self.split_specials(text) if specials else [text]:
            ids += [piece] if isinstance(piece, int) else encode_words(self._encoding, piece)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if token_id >= self._first_special:
            return b""
        return self._encoding.decode_single_token_bytes(token_id)


def encoding_of(name: str, pattern: str, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    """Build the library's encoder. Raises ValueError if a rank or a single byte is missing."""
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError("ranks are not 0, 1, 2, ...")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("a single byte has no rank")  # the library would panic in encode
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def encode_words(encoding: tiktoken.Encoding, text: str) -> list[int]:
    """Encode plain text. Raises UserError if the library gives up on it."""
    try:
        # encode_ordinary would panic if the pattern fails, for example on a million spaces.
        return encoding.encode(text, disallowed_special=())
    except ValueError as error:
        raise UserError(
            "The prompt cannot be tokenized because it has a very long run of one kind of "
            "character; remove that."
        ) from error


def _special_tokens(first: int) -> dict[str, int]:
    tokens = {}
    reserved = 0
    for index in range(_N_SPECIAL):
        if index in _SPECIAL_NAMES:
            name = _SPECIAL_NAMES[index]
        else:
            name = f"<|reserved_special_token_{reserved}|>"
            reserved += 1
        tokens[name] = first + index
    return tokens
