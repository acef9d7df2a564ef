"""The memory panel: the process and the machine."""

from collections import deque
from dataclasses import dataclass

from textual.content import Content
from textual.widgets import Static

from llama_cpu.chat.session_protocol import ModelBytes
from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.text import human_bytes
from llama_cpu.tui.number_format import PANEL_WIDTH, drawn, lines, part_of, row, sparkline


@dataclass(frozen=True)
class ModelMemory:
    """Memory of the model, in bytes."""

    weights: int
    weights_resident: int
    kv_cache: int  # allocated
    kv_cache_used: int
    kv_cache_touched: int  # used now or earlier: a page that was written stays resident


NO_MODEL_MEMORY = ModelMemory(0, 0, 0, 0, 0)


def model_memory(session: ModelBytes, report: MemoryReport) -> ModelMemory:
    """Measure the memory of the session's model at the time of the report."""
    return ModelMemory(
        weights=session.weights_bytes,
        weights_resident=session.weights_resident_bytes(report),
        kv_cache=session.kv_cache_bytes,
        # Read before the touched bytes: the cache may grow in between, and their difference is
        # shown.
        kv_cache_used=session.kv_cache_used_bytes,
        kv_cache_touched=session.kv_cache_touched_bytes,
    )


class MemoryPanel(Static):
    """The process's memory by use, its peak and last half minute; the machine's free memory."""

    BORDER_TITLE = "Memory"

    def __init__(self) -> None:
        super().__init__()
        self._history: deque[int] = deque(maxlen=PANEL_WIDTH)

    def show(self, report: MemoryReport, model: ModelMemory) -> None:
        """Show the present figures. Call it about once a second."""
        self._history.append(report.resident)
        *process, machine = memory_rows(report, model)
        graph = drawn(sparkline(list(self._history), PANEL_WIDTH))
        self.update(lines(*process, graph, machine), layout=False)


def memory_rows(report: MemoryReport, model: ModelMemory) -> list[Content]:
    """Make the rows of all figures, with the machine's in the last one."""
    return [
        row("Process now", human_bytes(report.resident)),
        *division(report, model),
        row("Peak", human_bytes(report.peak)),
        row("In mapped files", human_bytes(report.file_backed)),
        row("In own memory", human_bytes(report.anonymous)),
        row("Machine free", part_of(report.available, report.total)),
    ]


def division(report: MemoryReport, model: ModelMemory) -> list[Content]:
    """Make the rows of the uses of memory, which add up to the resident memory."""
    weights = human_bytes(model.weights_resident)
    if model.weights_resident < model.weights:  # the rest is still in the file
        weights = part_of(model.weights_resident, model.weights)
    rest = report.resident - model.weights_resident - model.kv_cache_touched
    return [
        row("  weights", weights),
        row("  KV cache", part_of(model.kv_cache_used, model.kv_cache)),
        row("  KV cache, idle", human_bytes(model.kv_cache_touched - model.kv_cache_used)),
        row("  the rest", human_bytes(max(0, rest))),
    ]
