"""The timing panel of the current answer."""

from textual.content import Content
from textual.widgets import Static

from llama_cpu.generation.timings import Timings
from llama_cpu.tui.number_format import (
    MISSING,
    PANEL_WIDTH,
    bar,
    drawn,
    duration,
    lines,
    rate,
    row,
    sparkline,
)


class TimingPanel(Static):
    """Shows the timings of one answer, always in the same number of lines."""

    BORDER_TITLE = "Timing"

    def show(self, timings: Timings, context_used: int, context_size: int) -> None:
        """Show the present figures; ``context_size`` is 0 while there is no model."""
        panel = lines(
            *_prompt_lines(timings),
            Content(),
            *_token_lines(timings),
            Content(),
            row("Context", f"{context_used:,} of {context_size:,}" if context_size else MISSING),
            drawn(bar(context_used / context_size if context_size else 0, PANEL_WIDTH)),
        )
        self.update(panel, layout=False)


def _prompt_lines(timings: Timings) -> list[Content]:
    done, total, reused = timings.prompt_done, timings.prompt_tokens, timings.reused_tokens
    if not total and not reused:
        return [row("Prompt read", MISSING), Content(), row("Reused from cache", MISSING)]
    progress = f"{done:,} of {total:,}" if done < total else f"{total:,} computed"
    speed = f"{rate(timings.prefill_rate):>12}"
    return [
        row("Prompt read", progress),
        drawn(bar(done / total if total else 1.0, PANEL_WIDTH - len(speed)) + speed),
        row("Reused from cache", f"{reused:,}"),
    ]


def _token_lines(timings: Timings) -> list[Content]:
    per_pass = timings.tokens_per_pass
    return [
        row("First token after", duration(timings.time_to_first_token)),
        row("Last token", duration(timings.last)),
        row("Median", duration(timings.median)),
        row("95th percentile", duration(timings.percentile_95)),
        row("Speed", rate(timings.decode_rate)),
        row("Tokens per pass", MISSING if per_pass is None else f"{per_pass:.2f}"),
        # Without the first token, whose time belongs to the prompt.
        drawn(sparkline(timings.token_seconds[1:], PANEL_WIDTH)),
    ]
