"""``tokenizer.model`` of LLaMA 1, Llama 2 and Mistral 7B, using the sentencepiece library."""

import sentencepiece

from llama_cpu.tokenization.base import SHOWN_TOKENS, Tokenizer, sentencepiece_bytes

# Appended to a serialized ModelProto this overrides one field of it, as protocol buffers merge
# repeated messages: normalizer_spec (3) { add_dummy_prefix (3): false }.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece vocabulary.

    Raises RuntimeError if the model cannot be parsed, ValueError if a piece is not UTF-8.
    """

    def __init__(self, model_proto: bytes, adds_bos: bool = True) -> None:
        # LoadFromSerializedProto raises an error; the constructor would abort the process.
        self._at_start = sentencepiece.SentencePieceProcessor()
        self._at_start.LoadFromSerializedProto(model_proto)
        self._continued = sentencepiece.SentencePieceProcessor()
        self._continued.LoadFromSerializedProto(model_proto + _NO_DUMMY_PREFIX)
        pieces = self._at_start
        self.n_tokens = pieces.GetPieceSize()
        self._pieces: list[str] = [pieces.IdToPiece(index) for index in range(self.n_tokens)]
        self.special_tokens = {
            piece: index
            for index, piece in enumerate(self._pieces)
            if (pieces.IsControl(index) or pieces.IsUnknown(index)) and piece not in SHOWN_TOKENS
        }
        self.bos_token = self._pieces[pieces.bos_id()] if pieces.bos_id() >= 0 else ""
        self.eos_token = self._pieces[pieces.eos_id()] if pieces.eos_id() >= 0 else ""
        self.adds_bos = adds_bos and bool(self.bos_token)

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        ids: list[int] = []
        pieces = self.split_specials(text) if specials else [text] if text else []
        for index, piece in enumerate(pieces):
            if isinstance(piece, int):
                ids.append(piece)
                continue
            # sentencepiece also puts a space before text that follows a control token, unless the
            # template itself contains that space, as Mistral's "[INST] " does.
            has_space = piece.startswith(" ") if index else continued
            encoder = self._continued if has_space else self._at_start
            ids += encoder.EncodeAsIds(piece)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if token_id >= self.n_tokens:
            return b""
        piece = self._pieces[token_id]
        return b"" if piece in self.special_tokens else sentencepiece_bytes(piece)
