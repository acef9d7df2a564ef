"""What the rest of the program knows of a tokenizer, whichever library does the work."""

import codecs
import re
from abc import ABC, abstractmethod
from functools import cached_property

# Names that published LLaMA-family vocabularies give to the tokens that end an answer.
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


class Tokenizer(ABC):
    """Text to token ids and back.

    ``special_tokens``: text -> id of the tokens that are never written by a person and are hidden
    in what the model writes. ``n_tokens``: ids run from 0 to n_tokens - 1.
    """

    n_tokens: int
    special_tokens: dict[str, int]
    bos_token: str = ""
    eos_token: str = ""
    end_tokens: tuple[str, ...] = ()  # others that the model's files say end an answer
    adds_bos: bool = False  # whether a prompt without a template begins with bos_token
    chat_template: str = ""  # the Jinja program that came with it

    @abstractmethod
    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        """Token ids of the text.

        ``specials``: whether special tokens are recognised in it; otherwise their letters are
        plain text. ``continued``: the text follows other tokens, so that no space is put before
        it where the tokenizer does so at the start.
        """

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The token's part of the UTF-8 text: b"" for a special token or an id without a token."""

    def encode_prompt(self, text: str) -> list[int]:
        """A prompt without a template: the text, after the bos token where the model expects it."""
        bos = [self.special_tokens[self.bos_token]] if self.adds_bos else []
        return bos + self.encode(text, specials=True)

    def encode_message(self, text: str) -> list[int]:
        """What a person or the model wrote, within a conversation: plain text that goes on."""
        return self.encode(text, specials=False, continued=True)

    def decode(self, token_ids: list[int]) -> str:
        """All of the text, incomplete characters at its end replaced."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        names = (self.eos_token, *self.end_tokens, *_END_TOKENS)
        return frozenset(self.special_tokens[name] for name in names if name in self.special_tokens)

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Any special token's name as group 1, the longest that fits; nothing if there are none."""
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, names)) or "(?!)") + ")")

    def split_specials(self, text: str) -> list[str | int]:
        """The text cut into plain pieces (str) and special tokens (id), longest name first."""
        pieces = self.special_pattern.split(text)
        return [self.special_tokens.get(piece, piece) for piece in pieces if piece]


def byte_level_bytes(piece: str) -> bytes:
    """The bytes behind a token of a byte-level BPE vocabulary, such as GPT-2's and Llama 3's."""
    return bytes(_BYTE_OF_SYMBOL[symbol] for symbol in piece if symbol in _BYTE_OF_SYMBOL)


def _byte_of_symbol() -> dict[str, int]:
    """GPT-2 writes printable bytes as themselves and the others as symbols from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_SYMBOL = _byte_of_symbol()


def sentencepiece_bytes(piece: str) -> bytes:
    """The bytes behind a sentencepiece token: ``▁`` is a space, ``<0x0A>`` a single byte."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


class StreamDecoder:
    """Token by token to text; an incomplete character is held back until the rest has come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    @property
    def is_incomplete(self) -> bool:
        """Whether a character is held back."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """What was held back; bytes that never became a character are replaced."""
        return self._utf8.decode(b"", final=True)
