"""An answer as text while it is being generated, up to the first stop string."""

from collections.abc import Sequence

from llama_cpu.tokenization import StreamDecoder, Tokenizer


class TextStream:
    """Token ids in, text that is safe to show out.

    Held back are incomplete characters and whatever may yet turn out to be the beginning of a
    stop string, so that no part of one is ever shown. ``text`` is all that was let out.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_strings: Sequence[str], begun: Sequence[int] = ()
    ) -> None:
        """``begun``: the tokens of a character that the text before ends in the middle of."""
        self._decoder = StreamDecoder(tokenizer)
        for token_id in begun:
            self._decoder.push(token_id)
        self._stop_strings = stop_strings
        self._held = ""
        self.text = ""
        self.stopped = False  # a stop string was found; everything from it on is discarded

    def push(self, token_id: int) -> str:
        self._held += self._decoder.push(token_id)
        starts = [self._held.find(stop) for stop in self._stop_strings]
        found = [start for start in starts if start >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self._let_out(len(self._held))
        return self._let_out(len(self._held) - self._length_of_partial_stop())

    def flush(self) -> str:
        """The rest, after the last token."""
        if not self.stopped:
            self._held += self._decoder.flush()
        return self._let_out(len(self._held))

    def _let_out(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self.text += text
        return text

    def _length_of_partial_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stop_strings), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stop_strings):
                return length
        return 0


def whole_characters(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text up to its last whole character, and the last tokens if another has begun there."""
    decoder = StreamDecoder(tokenizer)
    text = ""
    begun: list[int] = []
    for token_id in token_ids:
        text += decoder.push(token_id)
        begun = [*begun, token_id] if decoder.is_incomplete else []
    return text, begun


def ids_of_text(tokenizer: Tokenizer, token_ids: list[int], text: str) -> list[int]:
    """The ids as far as they stand for ``text``, with which their text begins.

    Where a stop string began inside a token, what of the token came before is encoded anew.
    """
    kept = list(token_ids)
    while kept and len(tokenizer.decode(kept)) > len(text):
        kept.pop()
    rest = text[len(tokenizer.decode(kept)) :]
    return kept + tokenizer.encode_message(rest) if rest else kept
