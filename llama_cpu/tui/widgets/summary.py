"""One line with the main figures, for terminals without room for the panels."""

from textual.widget import Widget

from llama_cpu.generation.timings import Timings
from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.text import human_bytes
from llama_cpu.tui.number_format import duration, rate

SEPARATOR = " · "

Part = tuple[int, str]  # rank and text; parts with high ranks are dropped first


class Summary(Widget):
    """Shows as many of the figures as fit in the line."""

    def __init__(self) -> None:
        super().__init__(id="summary")
        self._parts: list[Part] = []

    def show(self, parts: list[Part]) -> None:
        """Show these parts, in this order."""
        self._parts = parts
        self.refresh()

    def render(self) -> str:
        """Render the line for the present width."""
        return fitted(self._parts, self.content_size.width)


def fitted(parts: list[Part], width: int) -> str:
    """Join the parts of the lowest ranks that fit, in the given order."""
    kept = list(parts)
    while len(line := SEPARATOR.join(text for _, text in kept)) > width and kept:
        kept.remove(max(kept))
    return line


def answer_parts(timings: Timings) -> list[Part]:
    """The parts for the timings of the current answer."""
    if timings.prompt_done < timings.prompt_tokens:
        return [(0, _reading(timings)), (1, _prompt(timings))]
    if not timings.token_seconds:
        return [(0, "no answer yet")]
    return [
        (0, rate(timings.decode_rate)),
        (6, f"p95 {duration(timings.percentile_95)}"),
        (1, _prompt(timings)),
        (4, f"first {duration(timings.time_to_first_token)}"),
    ]


def _reading(timings: Timings) -> str:
    progress = f"{timings.prompt_done}/{timings.prompt_tokens}"
    if timings.is_stopped:
        return f"stopped, read {progress}"
    return f"reading {progress} at {rate(timings.prefill_rate)}"


def _prompt(timings: Timings) -> str:
    """Prompt tokens that were found in the KV cache, and computed ones."""
    return f"reused {timings.reused_tokens}+{timings.prompt_tokens}"


def memory_parts(report: MemoryReport, context_used: int, context_size: int) -> list[Part]:
    """The parts for the memory of the process and the use of the context.

    ``context_size`` is 0 while there is no model.
    """
    context = [(2, f"ctx {context_used}/{context_size}")] if context_size else []
    return [
        *context,
        (3, human_bytes(report.resident)),
        (5, f"peak {human_bytes(report.peak)}"),
    ]
