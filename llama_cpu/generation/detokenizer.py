"""Detokenizer: turns token ids into text while they are generated, up to the first stop string."""

from collections.abc import Sequence

from llama_cpu.tokenization import StreamDecoder, Tokenizer


class TextStream:
    """Converts token ids to text that is safe to show.

    Incomplete characters and possible beginnings of a stop string are held back, so that no part of
    a stop string is ever shown. ``text`` is all the text returned so far.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_strings: Sequence[str], begun: Sequence[int] = ()
    ) -> None:
        """``begun``: the last tokens of the prompt, if it ends in the middle of a character."""
        self._decoder = StreamDecoder(tokenizer)
        for token_id in begun:
            self._decoder.push(token_id)
        self._stop_strings = stop_strings
        self._held = ""
        self.text = ""
        self.stopped = False  # whether a stop string was found, which ends the text

    def push(self, token_id: int) -> str:
        """Take one token id and return the new text to show."""
        self._held += self._decoder.push(token_id)
        starts = [self._held.find(stop) for stop in self._stop_strings]
        found = [start for start in starts if start >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self._let_out(len(self._held))
        return self._let_out(len(self._held) - self._length_of_partial_stop())

    def flush(self) -> str:
        """Return the text still held back, after the last token."""
        if not self.stopped:
            self._held += self._decoder.flush()
        return self._let_out(len(self._held))

    def _let_out(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self.text += text
        return text

    def _length_of_partial_stop(self) -> int:
        """Return the length of the longest suffix of the held text that begins a stop string."""
        longest = max(map(len, self._stop_strings), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stop_strings):
                return length
        return 0


def whole_characters(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """Return the text up to the last complete character, and the tokens of an incomplete one."""
    decoder = StreamDecoder(tokenizer)
    text = ""
    begun: list[int] = []
    for token_id in token_ids:
        text += decoder.push(token_id)
        begun = [*begun, token_id] if decoder.is_incomplete else []
    return text, begun


def ids_of_text(tokenizer: Tokenizer, token_ids: list[int], text: str) -> list[int]:
    """Truncate the ids to those of ``text``, which must be a prefix of their text.

    If a stop string began inside a token, the part of the token before it is encoded again.
    """
    kept = list(token_ids)
    while kept and len(tokenizer.decode(kept)) > len(text):
        kept.pop()
    rest = text[len(tokenizer.decode(kept)) :]
    return kept + tokenizer.encode_message(rest) if rest else kept
