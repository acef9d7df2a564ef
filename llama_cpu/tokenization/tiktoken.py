"""``tokenizer.model`` of Llama 3: ranks of byte sequences, by the tiktoken library."""

import base64
import re

import tiktoken

from llama_cpu.errors import UserError
from llama_cpu.tokenization.base import Tokenizer

# Meta, llama3/tokenizer.py. Split into what BPE may not merge across.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_N_SPECIAL = 256
_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
# By distance from the end of the ranks; what is not named here is reserved (Llama 3.1's names).
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
    """Whether a tokenizer.model is a list of ranks (base64, space, number)."""
    return _RANK_LINE.fullmatch(data[:200].split(b"\n", 1)[0].rstrip()) is not None


class TiktokenTokenizer(Tokenizer):
    """Raises ValueError where a line is not a rank."""

    adds_bos = True
    bos_token = "<|begin_of_text|>"
    eos_token = "<|end_of_text|>"

    def __init__(self, data: bytes) -> None:
        ranks = {}
        for line in data.splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError("ranks are not 0, 1, 2, ...")
        if any(bytes([byte]) not in ranks for byte in range(256)):
            raise ValueError("a single byte has no rank")  # the library would panic in encode
        self.special_tokens = _special_tokens(len(ranks))
        self.n_tokens = len(ranks) + _N_SPECIAL
        self._first_special = len(ranks)
        self._encoding = tiktoken.Encoding(
            "llama-3",
            pat_str=LLAMA3_PATTERN,
            mergeable_ranks=ranks,
            special_tokens=self.special_tokens,
        )

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        try:
            if specials:
                return self._encoding.encode(text, allowed_special="all")
            return self._encoding.encode_ordinary(text)
        except ValueError as error:  # the pattern gives up on a million spaces
            raise UserError(
                "The prompt cannot be cut into tokens; it has a very long run of one kind of "
                "character, so take that out."
            ) from error

    def token_bytes(self, token_id: int) -> bytes:
        if token_id >= self._first_special:
            return b""
        return self._encoding.decode_single_token_bytes(token_id)


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
