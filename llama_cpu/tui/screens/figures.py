"""Times and memory, full screen: every token of the conversation, and all figures."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from llama_cpu.chat.session_protocol import Session
from llama_cpu.chat.times_export import times_as_csv, times_as_json
from llama_cpu.chat.token_times import AnswerTimes, Totals, answer_times, totals
from llama_cpu.errors import UserError
from llama_cpu.generation.timings import Timings
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.memory import memory_report
from llama_cpu.system.processor import processor_name
from llama_cpu.system.text import printable
from llama_cpu.tui import about
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.number_format import MISSING, duration, lines, rate, row
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.memory_panel import memory_rows, model_memory
from llama_cpu.tui.widgets.plot import TimesPlot

PREFILL_TITLE = "Prefill: time per prompt token, by answer"
DECODE_TITLE = "Decode: time of every token"


@dataclass(frozen=True)
class FiguresSource:
    """What the figures need from the chat screen. A retired screen's model is not queried."""

    timings_now: Callable[[], Timings | None]  # of the answer that is being written
    paging_sign: Callable[[], str]
    is_retired: Callable[[], bool]


class FiguresScreen(Screen[None]):
    """The figures of the whole conversation, or of one of its answers."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    BINDINGS = bindings(Scope.FIGURES)

    def __init__(self, session: Session, source: FiguresSource) -> None:
        super().__init__()
        self._session = session
        self._source = source
        self._place: int | None = None  # index of the answer; None: all
        self._is_logarithmic = False

    def compose(self) -> ComposeResult:
        yield Static(about.title(self._session), markup=False, id="about")
        with VerticalScroll(id="figures", can_focus=False):
            with Vertical(id="plots"):
                yield TimesPlot(PREFILL_TITLE, id="prefill")
                yield TimesPlot(DECODE_TITLE, id="decode")
            with VerticalScroll(id="numbers"):
                yield Static(markup=False)
        yield Static(markup=False, id="said")
        yield Footer()

    def on_mount(self) -> None:
        """Show the figures, and update them every second."""
        self.query_one("#numbers").focus()
        self.show()
        self.set_interval(1, self.show)

    def answers(self) -> list[AnswerTimes]:
        """The times of every answer of the line, including the one that is being written."""
        session = self._session
        now = self._source.timings_now()
        return answer_times(session.conversation.line, now, session.model_name)

    def show(self) -> None:
        """Show the present figures."""
        if self._source.is_retired() or not self.query("#numbers"):  # or the app is quitting
            return
        every = self.answers()
        if self._place is not None and self._place >= len(every):
            self._place = None
        first = self._place or 0
        chosen = every if self._place is None else every[first : first + 1]
        figures = totals(chosen)
        self._plot("#prefill", [each.prefill_seconds for each in chosen], first, hits(figures))
        self._plot("#decode", [each.decode_seconds for each in chosen], first, speed(figures))
        which = "" if self._place is None else f" · answer {first + 1} of {len(every)}"
        self.query_one("#prefill").border_title = PREFILL_TITLE + which
        self.query_one("#decode").border_title = DECODE_TITLE + which
        heading = "All answers" if self._place is None else f"Answer {first + 1}"
        report = memory_report()
        self.query_one("#numbers Static", Static).update(
            lines(
                *_machine_rows(self._session),
                Content(),
                row(heading, f"of {len(every)}" if self._place is not None else f"{len(every)}"),
                *total_rows(figures),
                Content(),
                *memory_rows(report, model_memory(self._session, report)),
                row("Paging", self._source.paging_sign() or "none"),
            )
        )

    def _plot(self, selector: str, times: list[list[float]], first: int, summary: str) -> None:
        places = [0, *accumulate(map(len, times))]
        marks = [
            (place, number)
            for number, (place, each) in enumerate(zip(places, times, strict=False), first + 1)
            if each
        ]
        plot = self.query_one(selector, TimesPlot)
        plot.border_subtitle = summary
        plot.show(list(chain.from_iterable(times)), marks, self._is_logarithmic)

    # Keys

    def action_close(self) -> None:
        """Go back to the chat."""
        self.dismiss()

    def action_step(self, step: int) -> None:
        """Show another answer; before the first and after the last, show all answers."""
        places: list[int | None] = [None, *range(len(self.answers()))]
        self._place = places[(places.index(self._place) + step) % len(places)]
        self.show()

    def action_whole(self) -> None:
        """Show all answers."""
        self._place = None
        self.show()

    def action_scale(self) -> None:
        """Switch between a linear and a logarithmic scale."""
        self._is_logarithmic = not self._is_logarithmic
        self.show()

    # Export

    @work(group="command")
    async def action_export(self) -> None:
        """Ask for a file name and write the file."""
        number = self._session.conversation.stored_id
        name = f"llama_cpu-times-{number}.csv" if number else "llama_cpu-times.csv"
        question = "File for the times and figures, ending in .csv or .json:"
        try:
            offered = str(Path.cwd() / name)
        except OSError:  # the folder was removed
            offered = name
        text = await self.app.push_screen_wait(Ask(question, offered))
        if not text or not text.strip():
            return
        try:
            self._say(await self._export(text.strip()))
        except UserError as error:
            self._say(printable(str(error)))

    async def _export(self, text: str) -> str:
        path = export_path(text)
        exists = await asyncio.to_thread(os.path.isfile, path)  # never raises
        if exists:
            question = f"{path} already exists. Replace it?"
            confirm = Confirm(printable(question), yes="Replace", no="Keep it")
            if not await self.app.push_screen_wait(confirm):
                return "Nothing was exported."
        answers = self.answers()
        about_all = facts(self._session)

        def write() -> None:
            if path.suffix.lower() == ".json":
                whole = times_as_json(answers, about_all)
            else:
                whole = times_as_csv(answers)
            write_text(path, whole, replace=exists)

        await asyncio.to_thread(write)
        return printable(f"Exported to {path}")

    def _say(self, text: str) -> None:
        said = self.query_one("#said", Static)
        said.update(text)
        said.display = True


def export_path(text: str) -> Path:
    """Return an absolute path for the export. Raises UserError if the suffix is unknown."""
    try:
        path = Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # ~ of an unknown user; no current folder
        raise UserError(f"{text[:60]} names a folder that does not exist.") from error
    if path.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"{path.name[:60]} ends in neither .csv nor .json; choose another name.")
    return path


def facts(session: Session) -> dict[str, Any]:
    """Describe the machine and the model for the export; memory is in bytes."""
    report = memory_report()
    return {
        "model": session.model_name,
        "precision": session.precision,
        "threads": session.threads,
        "processor": processor_name(),
        "memory": {**asdict(report), **asdict(model_memory(session, report))},
    }


def _machine_rows(session: Session) -> list[Content]:
    return [
        Content(printable(processor_name())),
        row("Threads", str(session.threads)),
        row("Precision", session.precision),
    ]


def hits(figures: Totals) -> str:
    """Summarize prefill."""
    part = MISSING if figures.cache_hits is None else f"{figures.cache_hits:.1%}"
    return f"{rate(figures.prefill_rate)} · cache hits {part}"


def speed(figures: Totals) -> str:
    """Summarize decode."""
    return (
        f"{rate(figures.decode_rate)} · median {duration(figures.median)} · "
        f"p95 {duration(figures.percentile_95)}"
    )


def total_rows(figures: Totals) -> list[Content]:
    """The rows for prefill, cache and decode."""
    part, per_pass = figures.cache_hits, figures.tokens_per_pass
    rows = [
        row("  prompt tokens computed", f"{figures.prompt_tokens:,}"),
        row("  reused from cache", f"{figures.reused_tokens:,}"),
        row("  cache hits", MISSING if part is None else f"{part:.1%}"),
        row("  prefill", rate(figures.prefill_rate)),
        row("  decoded tokens", f"{figures.decode_tokens:,}"),
        row("  decode", rate(figures.decode_rate)),
        row("  median", duration(figures.median)),
        row("  95th percentile", duration(figures.percentile_95)),
        row("  slowest", duration(figures.slowest)),
        row("  tokens per pass", MISSING if per_pass is None else f"{per_pass:.2f}"),
    ]
    if figures.without_runs:
        rows.append(row("  prompt not measured", f"{figures.without_runs:,}"))
    return rows
