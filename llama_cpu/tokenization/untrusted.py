"""What a tokenizer.json from a stranger may contain, checked before the library reads it.

A few kilobytes can make the library fill the memory (each of 45 normalizers doubles the text) or
compute for ever (a regular expression that backtracks). Normalizers have a limit of how much longer
they make any text. Files that consist of what published models use are then read in this process;
all others are read and used in another (``worker``).
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from llama_cpu.tokenization.patterns import PATTERNS

_MOST_PARTS = 32  # normalizers, or pre-tokenizers; published models have up to six
_LONGEST_PATTERN = 4000  # characters
_LARGEST_GROWTH = 1024  # of a text by normalizers and pre-tokenizers, in bytes per byte
_LONGEST_ADDITION = 1 << 16  # bytes that these may add to any text
# How much longer each kind makes a text, at most. Unicode's normal forms: UAX #15, section 9,
# "Maximum expansion factors". Applied again, those of _ONCE change nothing.
_GROWTH = {
    "NFC": 3, "NFD": 4, "NFKC": 11, "NFKD": 11, "Lowercase": 3, "Nmt": 1, "StripAccents": 1,
    "Strip": 1, "BertNormalizer": 12, "ByteLevel": 2, "Metaspace": 3,
}  # fmt: skip
_ONCE = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Metaspace"}


def check_growth(values: Mapping[str, Any]) -> None:
    """Check how much longer a text may get before it is encoded. Raises ValueError."""
    growth, addition = 1.0, 0.0
    seen: set[str] = set()
    for part in (*_parts(values, "normalizer"), *_parts(values, "pre_tokenizer")):
        kind = str(part.get("type"))
        if kind in seen & _ONCE:
            continue
        seen.add(kind)
        factor, added = _growth_of(part)
        growth, addition = growth * factor, addition * factor + added
        if growth > _LARGEST_GROWTH or addition > _LONGEST_ADDITION:
            raise ValueError("its normalizers make texts too long")


def is_ordinary(values: Mapping[str, Any]) -> bool:
    """Return whether the file contains only what published models use. Raises ValueError."""
    model = values.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") not in ("BPE", "Unigram"):
        return False
    rare = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if any(model.get(name) for name in rare):
        return False
    parts = (*_parts(values, "normalizer"), *_parts(values, "pre_tokenizer"))
    return all(_regex(part) in (None, *PATTERNS) for part in parts)


def _parts(values: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the normalizers or pre-tokenizers in the order of their application."""
    waiting, count = [values.get(key)], 0
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise ValueError(f"its {key} is not an object")
        count += 1
        if count > _MOST_PARTS:
            raise ValueError(f"its {key} has too many parts")
        inner = part.get("normalizers", part.get("pretokenizers"))
        if isinstance(inner, list):
            waiting += reversed(inner)
        else:
            yield part


def _growth_of(part: Mapping[str, Any]) -> tuple[float, float]:
    """Return by which factor a part makes texts longer, and by how many bytes beyond."""
    kind = part.get("type")
    if kind == "Prepend":
        return 1, _length(part.get("prepend"))
    if kind == "Replace":
        content, pattern = _length(part.get("content")), part.get("pattern")
        text = pattern.get("String") if isinstance(pattern, Mapping) else None
        if isinstance(text, str) and text:
            return max(1, content / len(text.encode())), 0
        return 1 + content, content  # a pattern may match between any two letters
    if kind == "Precompiled":
        return _longest_replacement(part.get("precompiled_charsmap")), 0
    return _GROWTH.get(str(kind), 1), _length(part.get("replacement", ""))


def _longest_replacement(charsmap: Any) -> int:
    """Return the bytes of the longest text in the map of a Precompiled normalizer.

    It consists of the size of a trie (4 bytes), the trie, and texts that end with a zero
    (sentencepiece, normalizer.cc).
    """
    if not isinstance(charsmap, str):
        return 1
    try:
        data = base64.b64decode(charsmap)
    except binascii.Error as error:
        raise ValueError("its map of characters is damaged") from error
    start = 4 + int.from_bytes(data[:4], "little")
    return max(1, *map(len, data[start:].split(b"\0")))


def _length(text: Any) -> int:
    return len(text.encode(errors="replace")) if isinstance(text, str) else 0


def _regex(part: Mapping[str, Any]) -> str | None:
    """Return the regular expression of a part, if it has one. Raises ValueError if it is huge."""
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if regex is None:
        return None
    if not isinstance(regex, str) or len(regex) > _LONGEST_PATTERN:
        raise ValueError("its regular expression is too long")
    return regex
