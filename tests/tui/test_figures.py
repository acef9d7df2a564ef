"""Numbers as people read them."""

import pytest

from llama_cpu.tui.number_format import PANEL_WIDTH, bar, duration, part_of, rate, row, sparkline


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0183, "18.3 ms"),
        (0.412, "412 ms"),
        (12.42, "12.4 s"),
        (185.0, "3 min 5 s"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_rate() -> None:
    assert [rate(0), rate(12.34), rate(260.1)] == ["-", "12.3 tok/s", "260 tok/s"]


def test_bar_reads_without_colour() -> None:
    assert bar(0.25, 8) == "━━┄┄┄┄┄┄"
    assert bar(7, 4) == "━━━━"
    assert bar(-1, 4) == "┄┄┄┄"


def test_sparkline_starts_at_zero_and_keeps_the_peaks() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([0, 7, 3.5], 8) == "▁█▅"
    assert sparkline([1.0] * 5, 8) == "█████"
    many = [1.0] * 1000
    many[777] = 7.0
    assert sorted(sparkline(many, 10)) == ["▂"] * 9 + ["█"]


def test_part_of() -> None:
    assert part_of(9 << 20, 180 << 20) == "9.0 of 180 MiB"
    assert part_of(512 << 20, 8 << 30) == "512 MiB of 8.0 GiB"


def test_row_ends_at_the_edge() -> None:
    assert len(row("Label", "12 ms")) == PANEL_WIDTH
