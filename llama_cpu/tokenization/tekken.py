"""``tekken.json`` of Mistral's newer models: ranks of byte sequences, using tiktoken.

The format is Mistral's (package mistral-common, tokens/tokenizers/tekken.py): control tokens have
the first ids, and the id of every other token is its rank plus their number.
"""

import base64
import json
from typing import Any

from llama_cpu.tokenization.base import SHOWN_TOKENS, Tokenizer
from llama_cpu.tokenization.tiktoken import encode_words, encoding_of

# The first control tokens of files that do not list them. Version 3 lacks the last three. Control
# tokens without a name are called <SPECIAL_20> and so on.
_SPECIAL_NAMES = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)
_MOST_TOKENS = 1 << 24


class TekkenTokenizer(Tokenizer):
    """Mistral's Tekken vocabulary. Raises ValueError if the file is damaged."""

    adds_bos = True
    bos_token = "<s>"
    eos_token = "</s>"

    def __init__(self, data: bytes) -> None:
        try:
            values = json.loads(data)
            config, entries = values["config"], values["vocab"]
            self.n_tokens = _count(config["default_vocab_size"])
            self._n_special = _count(config["default_num_special_tokens"])
            names = _special_names(values, self._n_special)
            ranks: dict[bytes, int] = {
                base64.b64decode(entry["token_bytes"], validate=True): entry["rank"]
                for entry in entries[: self.n_tokens - self._n_special]
            }
            pattern = config["pattern"]
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("a field is missing or of the wrong type") from error
        if not isinstance(pattern, str) or len(ranks) != self.n_tokens - self._n_special:
            raise ValueError("tokens are missing or listed twice")
        self.special_tokens = {
            name: index for index, name in enumerate(names) if name not in SHOWN_TOKENS
        }
        self._shown = {index: name for index, name in enumerate(names) if name in SHOWN_TOKENS}
        self._encoding = encoding_of("tekken", pattern, ranks)

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        ids: list[int] = []
        for piece in self.split_specials(text) if specials else [text]:
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += [rank + self._n_special for rank in encode_words(self._encoding, piece)]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._shown:
            return self._shown[token_id].encode()
        if not self._n_special <= token_id < self.n_tokens:
            return b""
        return self._encoding.decode_single_token_bytes(token_id - self._n_special)


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value <= _MOST_TOKENS:
        raise ValueError("a number of tokens is out of range")
    return value


def _special_names(values: dict[str, Any], count: int) -> list[str]:
    """Return the names of the control tokens by id. Raises ValueError if they are wrong."""
    listed = values.get("special_tokens")
    if listed is None:
        names = list(_SPECIAL_NAMES[: -3 if values["config"].get("version") == "v3" else None])
    else:
        names = [entry["token_str"] for entry in listed]
        if [entry["rank"] for entry in listed] != list(range(len(listed))):
            raise ValueError("the control tokens are not in order")
    names += [f"<SPECIAL_{index}>" for index in range(len(names), count)]
    if len(names) != count or len(set(names)) != count or not all(map(_is_text, names)):
        raise ValueError("the control tokens do not fit their number")
    return names


def _is_text(name: object) -> bool:
    return isinstance(name, str) and bool(name)
