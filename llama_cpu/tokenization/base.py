"""The common interface of all tokenizers, whatever library they use."""

import codecs
import re
from abc import ABC, abstractmethod
from functools import cached_property

# The end-of-answer tokens of published vocabularies of the supported model families.
_END_TOKENS = (
    "</s>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<|eot|>",
)
# Part of the text even if a vocabulary marks them as special: the chat shows thinking folded.
SHOWN_TOKENS = frozenset({"<think>", "</think>"})


class Tokenizer(ABC):
    """Converts text to token ids and back.

    ``special_tokens`` maps the text of each control token to its id. Control tokens structure a
    prompt; users never write them, and they are hidden in the model's output. Added tokens that
    are part of the output, such as ``<think>`` and ``<tool_call>``, are not among them.
    ``n_tokens`` is the size of the vocabulary: ids run from 0 to ``n_tokens - 1``.
    """

    n_tokens: int
    special_tokens: dict[str, int]
    bos_token: str = ""
    eos_token: str = ""
    end_tokens: tuple[str, ...] = ()  # further end-of-answer tokens from the model's files
    adds_bos: bool = False  # whether a prompt without a template begins with bos_token
    chat_template: str = ""  # the Jinja template from the model's files

    @abstractmethod
    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        """Return the token ids of a text.

        ``specials``: recognise control tokens in the text; otherwise their letters are plain
        text. ``continued``: the text follows other tokens, so the space that sentencepiece puts
        before a text is left out.
        """

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """Return a token's UTF-8 bytes; b"" for a control token and for an unused id."""

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt without a template, after the bos token if the model expects it."""
        bos = [self.special_tokens[self.bos_token]] if self.adds_bos else []
        return bos + self.encode(text, specials=True)

    def encode_message(self, text: str) -> list[int]:
        """Encode text from the user or the model inside a conversation, as plain text."""
        return self.encode(text, specials=False, continued=True)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of the ids, with U+FFFD in place of incomplete characters."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def end_ids(self) -> frozenset[int]:
        """Return the ids of the tokens that end an answer."""
        names = (self.eos_token, *self.end_tokens, *_END_TOKENS)
        return frozenset(self.special_tokens[name] for name in names if name in self.special_tokens)

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """A pattern whose group 1 is a control token, the longest first; it may match nothing."""
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, names)) or "(?!)") + ")")

    def split_specials(self, text: str) -> list[str | int]:
        """Split a text into plain pieces (str) and control tokens (id)."""
        pieces = self.special_pattern.split(text)
        return [self.special_tokens.get(piece, piece) for piece in pieces if piece]


def byte_level_bytes(piece: str) -> bytes:
    """Return the bytes behind a token of a byte-level BPE vocabulary (GPT-2, Llama 3, Qwen)."""
    return bytes(BYTE_OF_SYMBOL[symbol] for symbol in piece if symbol in BYTE_OF_SYMBOL)


def _byte_of_symbol() -> dict[str, int]:
    """Return GPT-2's table: printable bytes stay the same, others are symbols from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


BYTE_OF_SYMBOL = _byte_of_symbol()


def sentencepiece_bytes(piece: str) -> bytes:
    """Return the bytes behind a sentencepiece token: ``▁`` is a space, ``<0x0A>`` one byte."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


class StreamDecoder:
    """Decodes token by token and holds back an incomplete character until its last byte."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Add a token and return the text that is complete now."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    @property
    def is_incomplete(self) -> bool:
        """Whether a character is held back."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """Return U+FFFD in place of an incomplete character that was held back."""
        return self._utf8.decode(b"", final=True)
