"""The tokens of the lens in lines, their shades and their figures."""

from textual.style import Style

from llama_cpu.tui.widgets.lens_details import alternatives, figures, percent
from llama_cpu.tui.widgets.lens_layout import escaped, laid_out
from llama_cpu.tui.widgets.lens_shades import (
    SHADES,
    UNKNOWN,
    by_probability,
    by_time,
    median_seconds,
)
from tests.tui.lens_words import WORDS, token


def lines(parts: list[str], width: int) -> list[str]:
    laid = laid_out([token(number, part) for number, part in enumerate(parts)], width)
    return ["".join(span.text for span in line) for line in laid]


def test_lines_break_between_words() -> None:
    assert lines(["The", " cat", " sat", " down"], 9) == ["The cat", " sat down"]
    assert lines(["un", "break", "able", " end"], 9) == ["unbreak", "able end"]
    assert lines(["abcdefghij"], 4) == ["abcd", "efgh", "ij"]
    assert lines(["a\n\n", "b\n"], 9) == ["a↵", "↵", "b↵"]
    assert lines([], 9) == [""]
    assert lines(["a"], 1) == ["a"]


def test_wide_and_combining_characters() -> None:
    laid = laid_out([token(0, "你好"), token(1, "吗"), token(2, "\u0301")], 5)
    spans = [(span.token, span.text, span.x, span.width) for line in laid for span in line]
    assert spans == [(0, "你好", 0, 4), (1, "吗", 0, 2), (2, "◌\u0301", 2, 1)]


def test_what_does_not_show_is_shown() -> None:
    parts = [token(0, "", text="\\xf0\\x9f"), token(1, "\x1b[2J\t"), token(2, "", text="</s>")]
    text = "".join(span.text for line in laid_out(parts, 80) for span in line)
    assert text == "▯␛[2J⇥   </s>"
    assert escaped(" a\n\x1b\u202e") == "“ a\\n\\u001b\\u202e”"
    assert escaped("") == "no text"
    [[turned]] = laid_out([token(0, "a\u202eb\u2066c")], 80)
    assert turned.text == "a▯b▯c"
    # A special token may be called anything.
    laid = laid_out([token(0, "", text="<\x1b[2J\u202e\t\n>")], 80)
    assert ["".join(span.text for span in line) for line in laid] == ["<␛[2J▯⇥   ↵", ">"]


def test_shades() -> None:
    assert by_probability(WORDS) == [0, 1, 2, 3, 4, 0]
    # The first one is sampled from the prompt's logits and no measure.
    assert median_seconds(WORDS) == 0.02
    assert by_time(WORDS) == [0, 0, 0, 1, 4, 0]
    unknown = [token(0, "a", seconds=None)]
    assert (median_seconds(unknown), by_time(unknown)) == (None, [UNKNOWN])


def test_shades_differ_without_colour() -> None:
    styles = [
        Style.parse(shade, {"success": "green", "warning": "red", "error": "red"})
        for shade in SHADES
    ]
    shapes = [(style.bold, style.italic, style.underline) for style in styles]
    assert len(set(shapes[1:])) == len(shapes) - 1


def test_figures_of_a_token() -> None:
    told = figures(WORDS[3], 3, 6, usual=0.02).plain
    for part in ("4 of 6", "“.\\n”", "10.0%", "-2.303", "30.0 ms, 1.5x the usual"):
        assert part in told
    assert "the most probable" in figures(WORDS[0], 0, 6, usual=None).plain
    assert figures(token(0, "a", seconds=None), 0, 1, None).plain.endswith("-")
    assert [line.plain for line in alternatives(WORDS[1])][1] == "2   10.0% ━┄┄┄┄┄┄┄ “ other1”"
    assert [percent(p) for p in (1.0, 0.982, 0.0031, 0.00001)] == [
        "100.0%",
        "98.2%",
        "0.31%",
        "<0.01%",
    ]
