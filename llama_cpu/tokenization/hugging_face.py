"""``tokenizer.json``, using Hugging Face's tokenizers library."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from llama_cpu.errors import UserError
from llama_cpu.tokenization.base import (
    SHOWN_TOKENS,
    Tokenizer,
    byte_level_bytes,
    sentencepiece_bytes,
)


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's library; see ``parse``.

    ``settings`` is the content of tokenizer_config.json, which names the bos and eos tokens.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        self.special_tokens = {
            token.content: index
            for index, token in added.items()
            if token.special and token.content not in SHOWN_TOKENS
        }
        self._special_ids = frozenset(self.special_tokens.values())
        self._added = {index: token.content.encode() for index, token in added.items()}
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.n_tokens = max(vocabulary.values(), default=-1) + 1
        self.bos_token = _token_text(settings.get("bos_token"))
        self.eos_token = _token_text(settings.get("eos_token"))
        bos_id = self.special_tokens.get(self.bos_token)
        self.adds_bos = bos_id is not None and tokenizer.encode("x").ids[:1] == [bos_id]
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])

    @classmethod
    def parse(cls, data: str, settings: Mapping[str, Any]) -> "HuggingFaceTokenizer":
        """Build a tokenizer from the text of tokenizer.json. Raises ValueError if it is damaged."""
        try:
            return cls(tokenizers.Tokenizer.from_str(data), settings)
        except BaseException as error:
            if not _is_failure(error):
                raise
            raise ValueError(str(error)) from error

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        self._tokenizer.encode_special_tokens = not specials
        if not continued or self._byte_level:
            return self._ids(text)
        # Like sentencepiece, the tokenizer puts a space before a text at its start only.
        before = self._ids("\n")
        ids = self._ids("\n" + text)
        return ids[len(before) :] if ids[: len(before)] == before else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:  # for example an unknown token without a name for it
            if not _is_failure(error):
                raise
            raise UserError(
                f"The model's tokenizer.json cannot encode this text ({str(error)[:100]}); get a "
                "good copy of that file."
            ) from error
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._special_ids:
            return b""
        if token_id in self._added:
            return self._added[token_id]
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        return byte_level_bytes(piece) if self._byte_level else sentencepiece_bytes(piece)


def _is_failure(error: BaseException) -> bool:
    """Return whether the library failed: it raises Exception, or BaseException on Rust panics."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _token_text(value: Any) -> str:
    """Return the text of a token: a string, or an object with the field ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
