"""What of an answer is shown, and when."""

import pytest

from llama_cpu.generation.detokenizer import TextStream, ids_of_text
from llama_cpu.system.text import human_bytes, printable
from tests.support.engine import ByteTokenizer

TOKENIZER = ByteTokenizer()


def shown(text: str, stops: tuple[str, ...]) -> list[str]:
    stream = TextStream(TOKENIZER, stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            break
    pieces.append(stream.flush())
    assert "".join(pieces) == stream.text
    return pieces


def test_without_stop_strings_everything_is_shown_at_once() -> None:
    assert shown("abc", ()) == ["a", "b", "c", ""]


def test_incomplete_characters_are_held_back() -> None:
    assert shown("é😀", ()) == ["", "é", "", "", "", "😀", ""]


def test_no_part_of_a_stop_string_is_shown() -> None:
    pieces = shown("Yes.\nUser: next", ("\nUser:",))
    assert "".join(pieces) == "Yes."
    assert not any("\n" in piece or "U" in piece for piece in pieces)


def test_what_only_began_like_a_stop_string_is_shown_later() -> None:
    assert "".join(shown("a\nUs and them", ("\nUser:",))) == "a\nUs and them"
    assert shown("ab\nUs", ("\nUser:",))[-1] == "\nUs"


def test_the_first_of_several_stop_strings_counts() -> None:
    assert "".join(shown("one STOP two END", ("END", "STOP"))) == "one "


@pytest.mark.parametrize("stop", ["aab", "aaab"])
def test_stop_strings_that_overlap_themselves(stop: str) -> None:
    assert "".join(shown("xaaaab", (stop,))) == "x" + "a" * (5 - len(stop))


class PairTokenizer(ByteTokenizer):
    """300 is the two characters ``.`` and newline."""

    def token_bytes(self, token_id: int) -> bytes:
        return b".\n" if token_id == 300 else super().token_bytes(token_id)


def test_ids_end_where_the_text_ends() -> None:
    ids = [*b"Yes", 300, *b"User:"]
    assert ids_of_text(PairTokenizer(), ids, "Yes.\n") == [*b"Yes", 300]
    assert ids_of_text(PairTokenizer(), ids, "Yes.") == [*b"Yes", ord(".")]
    assert ids_of_text(PairTokenizer(), ids, "") == []


def test_escape_sequences_become_visible() -> None:
    hostile = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\r\nb\tc"
    text = printable(hostile)
    assert not any(ord(char) < 0x20 and char not in "\n\t" for char in text)
    assert not any(0x7F <= ord(char) < 0xA0 for char in text)
    assert "[31mred" in text
    assert text.endswith("\nb\tc")


def test_human_bytes() -> None:
    assert human_bytes(0) == "0 B"
    assert human_bytes(1536) == "1.5 KiB"
    assert human_bytes(340 << 20) == "340 MiB"
    assert human_bytes(13.5 * 2**30) == "13.5 GiB"
