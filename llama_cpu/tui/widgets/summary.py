"""The one line that stands for the panels where there is no room for them."""

from textual.widget import Widget

from llama_cpu.generation.timings import Timings
from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.text import human_bytes
from llama_cpu.tui.number_format import duration, rate

SEPARATOR = " · "

Part = tuple[int, str]  # the lower the number, the longer it stays where room gets scarce


class Summary(Widget):
    """As many of the parts as fit."""

    def __init__(self) -> None:
        super().__init__(id="summary")
        self._parts: list[Part] = []

    def show(self, parts: list[Part]) -> None:
        """Show these parts, in this order."""
        self._parts = parts
        self.refresh()

    def render(self) -> str:
        """The line for the present width."""
        return fitted(self._parts, self.content_size.width)


def fitted(parts: list[Part], width: int) -> str:
    """One line of the most important parts that fit, in the order given."""
    kept = list(parts)
    while len(line := SEPARATOR.join(text for _, text in kept)) > width and kept:
        kept.remove(max(kept))
    return line


def answer_parts(timings: Timings) -> list[Part]:
    """The times of the current answer."""
    if timings.prompt_done < timings.prompt_tokens:
        progress = f"reading {timings.prompt_done}/{timings.prompt_tokens}"
        return [(0, f"{progress} at {rate(timings.prefill_rate)}"), (1, _prompt(timings))]
    if not timings.token_seconds:
        return [(0, "no answer yet")]
    return [
        (0, rate(timings.decode_rate)),
        (6, f"p95 {duration(timings.percentile_95)}"),
        (1, _prompt(timings)),
        (4, f"first {duration(timings.time_to_first_token)}"),
    ]


def _prompt(timings: Timings) -> str:
    """Prompt tokens found in the KV cache, and those computed."""
    return f"reused {timings.reused_tokens}+{timings.prompt_tokens}"


def memory_parts(report: MemoryReport, context_used: int, context_size: int) -> list[Part]:
    """The memory of the process and what is left of the context."""
    return [
        (2, f"ctx {context_used}/{context_size}"),
        (3, human_bytes(report.resident)),
        (5, f"peak {human_bytes(report.peak)}"),
    ]
