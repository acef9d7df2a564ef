"""The line for narrow screens, with figures as large as they get."""

from llama_cpu.generation.timings import Timings
from llama_cpu.system.memory import MemoryReport
from llama_cpu.tui.widgets.summary import answer_parts, fitted, memory_parts

NARROW = 78  # columns of an 80-column screen
GIB = 1 << 30
REPORT = MemoryReport(int(12.3 * GIB), int(12.6 * GIB), 0, 0, 0, 16 * GIB)
ANSWERED = Timings(3400, 500, 500, 12.3, [0.1] + [0.0984] * 20)


def line(timings: Timings, width: int, context_size: int = 4096) -> str:
    return fitted(answer_parts(timings) + memory_parts(REPORT, 3900, context_size), width)


def test_the_less_important_goes_first() -> None:
    whole = (
        "10.2 tok/s · p95 98.4 ms · reused 3400+500 · first 12.4 s · ctx 3900/4096 · 12.3 GiB"
        " · peak 12.6 GiB"
    )
    assert line(ANSWERED, len(whole)) == whole
    narrow = "10.2 tok/s · reused 3400+500 · first 12.4 s · ctx 3900/4096 · 12.3 GiB"
    assert line(ANSWERED, NARROW) == narrow
    assert line(ANSWERED, len(narrow) - 1) == narrow.replace(" · first 12.4 s", "")
    assert line(ANSWERED, 12) == "10.2 tok/s"
    assert line(ANSWERED, 0) == ""


def test_a_very_long_context_still_fits() -> None:
    timings = Timings(120_000, 8192, 8192, 12.3, [0.1, 0.0078])
    assert line(timings, NARROW, context_size=131_072) == (
        "128 tok/s · reused 120000+8192 · first 12.4 s · ctx 3900/131072 · 12.3 GiB"
    )


def test_while_the_prompt_is_read() -> None:
    timings = Timings(44, 3800, 512, 2.0)
    assert line(timings, NARROW) == (
        "reading 512/3800 at 256 tok/s · reused 44+3800 · ctx 3900/4096 · 12.3 GiB"
    )


def test_while_the_prompt_is_read_no_more() -> None:
    timings = Timings(44, 3800, 512, 2.0, is_stopped=True)
    assert line(timings, NARROW).startswith("stopped, read 512/3800 · reused 44+3800 · ctx")


def test_without_a_model() -> None:
    assert line(Timings(), NARROW, 0) == "no answer yet · 12.3 GiB · peak 12.6 GiB"


def test_before_the_first_answer() -> None:
    assert line(Timings(), NARROW) == ("no answer yet · ctx 3900/4096 · 12.3 GiB · peak 12.6 GiB")
