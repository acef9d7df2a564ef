"""The division of the process's memory."""

import pytest

from llama_cpu.system.memory import MemoryReport, memory_report
from llama_cpu.tui.number_format import row
from llama_cpu.tui.widgets.memory_panel import ModelMemory, division, model_memory
from tests.tui.fakes import FakeSession

MIB = 1 << 20


def divided(resident: int, model: ModelMemory) -> list[str]:
    report = MemoryReport(resident * MIB, resident * MIB, 0, 0, 0, 0)
    return [line.plain for line in division(report, model)]


def rows(weights: str, cache: str, idle: str, rest: str) -> list[str]:
    labels = ["  weights", "  KV cache", "  KV cache, idle", "  the rest"]
    values = [weights, cache, idle, rest]
    return [row(label, value).plain for label, value in zip(labels, values, strict=True)]


@pytest.mark.parametrize(
    ("weights_resident", "used", "shown"),
    [
        # All in memory: 400 + 40 + 0 + 160 = 600.
        (400, 40, rows("400 MiB", "40.0 of 100 MiB", "0 B", "160 MiB")),
        # After the conversation was cleared: the pages stay.
        (400, 0, rows("400 MiB", "0 B of 100 MiB", "40.0 MiB", "160 MiB")),
        # Mapped and partly read: 150 + 30 + 10 + 410 = 600.
        (150, 30, rows("150 of 400 MiB", "30.0 of 100 MiB", "10.0 MiB", "410 MiB")),
        # Pages that the system took back after they were counted.
        (570, 40, rows("570 MiB", "40.0 of 100 MiB", "0 B", "0 B")),
    ],
)
def test_the_rows_add_up(weights_resident: int, used: int, shown: list[str]) -> None:
    model = ModelMemory(400 * MIB, weights_resident * MIB, 100 * MIB, used * MIB, 40 * MIB)
    assert divided(600, model) == shown


def test_the_session_is_asked() -> None:
    session, report = FakeSession(), memory_report()
    assert model_memory(session, report) == ModelMemory(
        weights=session.weights_bytes,
        weights_resident=session.weights_resident_bytes(report),
        kv_cache=session.kv_cache_bytes,
        kv_cache_used=session.kv_cache_used_bytes,
        kv_cache_touched=session.kv_cache_touched_bytes,
    )
