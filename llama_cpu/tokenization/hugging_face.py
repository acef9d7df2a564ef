"""``tokenizer.json``, by Hugging Face's tokenizers library."""

import json
from typing import Any

import tokenizers

from llama_cpu.errors import UserError
from llama_cpu.tokenization.base import Tokenizer, byte_level_bytes, sentencepiece_bytes


class HuggingFaceTokenizer(Tokenizer):
    """``settings`` is tokenizer_config.json, which names the bos and eos tokens.

    ``tokenizer`` is the library's object; see ``parse``.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        self.special_tokens = {
            token.content: index for index, token in added.items() if token.special
        }
        self._added = {index: token.content for index, token in added.items() if not token.special}
        self._special_ids = frozenset(self.special_tokens.values())
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.n_tokens = max(vocabulary.values(), default=-1) + 1
        self.bos_token = _token_text(settings.get("bos_token"))
        self.eos_token = _token_text(settings.get("eos_token"))
        bos_id = self.special_tokens.get(self.bos_token)
        self.adds_bos = bos_id is not None and tokenizer.encode("x").ids[:1] == [bos_id]
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])

    @classmethod
    def parse(cls, data: str, settings: dict[str, Any]) -> "HuggingFaceTokenizer":
        """From the text of tokenizer.json. Raises ValueError where it is damaged."""
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
        # Sentencepiece-like: a space is put before the text unless something else comes first.
        before = self._ids("\n")
        ids = self._ids("\n" + text)
        return ids[len(before) :] if ids[: len(before)] == before else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:  # an unknown token and no name for it, say
            if not _is_failure(error):
                raise
            raise UserError(
                f"The model's tokenizer.json cannot encode this text ({str(error)[:100]}); get a "
                "good copy of that file."
            ) from error

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._special_ids:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        return byte_level_bytes(piece) if self._byte_level else sentencepiece_bytes(piece)


def _is_failure(error: BaseException) -> bool:
    """The library raises bare Exception, and where its Rust code panics not even that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _token_text(value: Any) -> str:
    """A token in tokenizer_config.json is its text, or an object with a field ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
