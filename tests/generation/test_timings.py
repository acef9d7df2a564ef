"""Statistics of the times of one answer."""

import pytest

from llama_cpu.generation.events import Prefill, Token
from llama_cpu.generation.timings import Timings


def test_timings() -> None:
    timings = Timings()
    assert timings.time_to_first_token is timings.median is timings.percentile_95 is None
    timings.observe(Prefill(reused=10, done=40, total=40, seconds=2.0))
    for milliseconds in [1, *range(1, 101)]:
        timings.observe(Token(0, "", milliseconds / 1000))
    assert timings.prefill_rate == 20.0
    assert timings.time_to_first_token == 2.001
    assert timings.median == 0.0505
    assert timings.percentile_95 == 0.095
    assert timings.decode_rate == pytest.approx(100 / 5.05)
