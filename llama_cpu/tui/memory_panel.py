"""Memory of the process and of the machine, as a panel and as a part of the one-line summary."""

from collections import deque
from dataclasses import dataclass

from textual.widgets import Static

from llama_cpu.machine import MemoryReport
from llama_cpu.text import human_bytes
from llama_cpu.tui.figures import PANEL_WIDTH, drawn, lines, part_of, row, sparkline


@dataclass(frozen=True)
class ModelMemory:
    """What the model has taken, in bytes."""

    weights: int
    kv_cache: int  # allocated
    kv_cache_used: int


class MemoryPanel(Static):
    """The process's memory now, at its peak and by use; the machine's; the last half minute.

    Weights that are read in place from a mapped file count as the file's pages.
    """

    BORDER_TITLE = "Memory"

    def __init__(self) -> None:
        super().__init__()
        self._history: deque[int] = deque(maxlen=PANEL_WIDTH)

    def show(self, report: MemoryReport, model: ModelMemory) -> None:
        """Show the figures as they are now; call it about once a second."""
        self._history.append(report.resident)
        rest = max(0, report.resident - model.weights - model.kv_cache_used)
        panel = lines(
            row("Process now", human_bytes(report.resident)),
            row("Peak", human_bytes(report.peak)),
            row("  weights", human_bytes(model.weights)),
            row("  KV cache", part_of(model.kv_cache_used, model.kv_cache)),
            row("  the rest", human_bytes(rest)),
            row("In mapped files", human_bytes(report.file_backed)),
            row("In own memory", human_bytes(report.anonymous)),
            drawn(sparkline(list(self._history), PANEL_WIDTH)),
            row("Machine free", part_of(report.available, report.total)),
        )
        self.update(panel, layout=False)


def summary(report: MemoryReport) -> list[str]:
    """What matters most, for the narrow screen."""
    return [f"{human_bytes(report.resident)} (peak {human_bytes(report.peak)})"]
