"""``tokenizer.json``, using Hugging Face's tokenizers library."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from llama_cpu.errors import UserError
from llama_cpu.system.limited_process import LimitedProcess
from llama_cpu.tokenization.base import (
    SHOWN_TOKENS,
    Tokenizer,
    byte_level_bytes,
    sentencepiece_bytes,
)
from llama_cpu.tokenization.untrusted import check_growth, is_ordinary

ENCODE_SECONDS = 5.0  # a text that takes longer is assumed never to end
_LONGEST_TEXT = 1_000_000  # characters; in longer runs of spaces even ordinary patterns may panic


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's library; see ``parse``.

    ``settings`` is the content of tokenizer_config.json, which names the bos and eos tokens.
    ``data`` is the text of tokenizer.json if texts must be encoded in another process; the
    tokenizer then only knows the vocabulary.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], data: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._data = data
        self._process = LimitedProcess("llama_cpu.tokenization.worker", ENCODE_SECONDS)
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
        self.adds_bos = bos_id is not None and self._ids("x", framed=True)[:1] == [bos_id]
        decoder = tokenizer.decoder
        self._byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    @classmethod
    def parse(cls, data: str, settings: Mapping[str, Any]) -> "HuggingFaceTokenizer":
        """Build a tokenizer from the text of tokenizer.json. Raises ValueError if it is damaged.

        A file with parts that published models do not have is used in a process with limits.
        """
        try:
            values = json.loads(data)
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            check_growth(values)
            if is_ordinary(values):
                return cls(tokenizers.Tokenizer.from_str(data), settings)
            return cls._in_another_process(data, values, settings)
        except BaseException as error:
            if not _is_failure(error):
                raise
            raise ValueError(str(error)) from error

    @classmethod
    def _in_another_process(
        cls, data: str, values: dict[str, Any], settings: Mapping[str, Any]
    ) -> "HuggingFaceTokenizer":
        # The other process reads the file first: what makes the library panic comes no further.
        first = LimitedProcess("llama_cpu.tokenization.worker", ENCODE_SECONDS)
        answer = first.ask(json.dumps(data))
        first.close()
        if answer is None or json.loads(answer):
            raise ValueError("the library cannot read it within its limits")
        vocabulary = {**values, "normalizer": None, "pre_tokenizer": None, "post_processor": None}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(vocabulary))
        return cls(tokenizer, settings, data)

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        if not continued or self._byte_level:
            return self._ids(text, specials)
        # Like sentencepiece, the tokenizer puts a space before a text at its start only.
        before = self._ids("\n", specials)
        ids = self._ids("\n" + text, specials)
        return ids[len(before) :] if ids[: len(before)] == before else self._ids(text, specials)

    def _ids(self, text: str, specials: bool = True, framed: bool = False) -> list[int]:
        """Return the ids of a text. ``framed``: with the tokens that a prompt begins with.

        Raises UserError.
        """
        if self._data or len(text) > _LONGEST_TEXT:
            return self._ids_of_other_process(text, specials, framed)
        self._tokenizer.encode_special_tokens = not specials
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=framed).ids
        except BaseException as error:  # for example an unknown token without a name for it
            if not _is_failure(error):
                raise
            raise _cannot_encode(str(error)) from error
        return ids

    def _ids_of_other_process(self, text: str, specials: bool, framed: bool) -> list[int]:
        if not self._process.is_running:
            self._process.ask(json.dumps(self._data or self._tokenizer.to_str()))
        request = {"text": text, "plain": not specials, "framed": framed}
        answer = self._process.ask(json.dumps(request))
        if answer is None:
            raise _cannot_encode("it takes too long or too much memory")
        reply: dict[str, Any] = json.loads(answer)
        if "error" in reply:
            raise _cannot_encode(reply["error"])
        ids: list[int] = reply["ids"]
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


def _cannot_encode(why: str) -> UserError:
    return UserError(
        f"The model's tokenizer.json cannot encode this text ({why[:100]}); shorten the text or "
        "get a good copy of that file."
    )


def _is_failure(error: BaseException) -> bool:
    """Return whether the library failed: it raises Exception, or BaseException on Rust panics."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _token_text(value: Any) -> str:
    """Return the text of a token: a string, or an object with the field ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
