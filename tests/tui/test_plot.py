"""The plot of times, read back from its dots."""

import pytest

from llama_cpu.tui.widgets.plot import _DOTS, _axis, drawn, scale


def heights(values: list[float], columns: int, rows: int, logarithmic: bool = False) -> list[set]:
    """For each column of dots, which of them are set, from the bottom."""
    lines = drawn(values, columns, rows, *scale(values, logarithmic), logarithmic)
    assert len(lines) == rows and all(len(line) == columns for line in lines)
    found: list[set[int]] = [set() for _ in range(columns * 2)]
    for row, line in enumerate(reversed(lines)):
        for column, character in enumerate(line):
            code = 0 if character == " " else ord(character) - 0x2800
            for side in (0, 1):
                dots = {row * 4 + dot for dot in range(4) if code & _DOTS[side][dot]}
                found[column * 2 + side] |= dots
    return found


def test_each_value_has_its_dot() -> None:
    assert heights([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 4, 2) == [{n} for n in range(8)]


def test_few_values_are_lines() -> None:
    assert heights([1.0, 0.0], 3, 1) == [{3}] * 3 + [{0}] * 3


def test_many_values_show_their_range_and_no_slow_one_is_missed() -> None:
    values = [1.0] * 5000
    values[1234] = 100.0
    found = heights(values, 40, 10)
    assert sum(39 in dots for dots in found) == 1
    slow = next(column for column, dots in enumerate(found) if 39 in dots)
    assert slow == 1234 * 80 // 5000 and found[slow] == set(range(40))
    assert all(dots == {0} for column, dots in enumerate(found) if column != slow)


def test_logarithmic() -> None:
    """Ten times as long is always as much higher."""
    found = heights([0.001, 0.01, 0.1, 1.0], 2, 4, logarithmic=True)
    assert found == [{0}, {5}, {10}, {15}]


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [3.0], [1e-9, 1e9], [0.0, 1e-300]])
def test_odd_values(values: list[float], logarithmic: bool) -> None:
    assert all(heights(values, 3, 2, logarithmic))


def test_where_answers_begin() -> None:
    line, numbers = _axis([(0, 1), (50, 2)], 100, 20)
    assert line == "└┴─────────┴─────────" and numbers == " 1         2"
    line, numbers = _axis([(n, n + 1) for n in range(500)], 500, 20)
    assert line.count("┴") == 1 and numbers.startswith(" 1  ")
