"""Times and memory on the whole screen: every token of the conversation, and all figures."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from llama_cpu.chat.times_export import times_as_csv, times_as_json
from llama_cpu.chat.token_times import AnswerTimes, Totals, answer_times, totals
from llama_cpu.errors import UserError
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.memory import memory_report
from llama_cpu.system.processor import processor_name
from llama_cpu.system.text import printable
from llama_cpu.tui import about
from llama_cpu.tui.keys import bindings_of, keys_of, shown
from llama_cpu.tui.number_format import MISSING, duration, lines, rate, row
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.memory_panel import memory_rows, model_memory
from llama_cpu.tui.widgets.plot import TimesPlot

if TYPE_CHECKING:
    from llama_cpu.chat.session import ChatSession
    from llama_cpu.tui.screens.chat import ChatScreen

PREFILL_TITLE = "Prefill: time a prompt token, by answer"
DECODE_TITLE = "Decode: time of every token"


def _key(key: str, action: str, footer: str, id: str, about: str, display: str = "") -> Binding:
    # Before the keys that scroll.
    return Binding(
        key, action, footer, key_display=display or None, priority=True, id=id, tooltip=about
    )


class FiguresScreen(Screen[None]):
    """Of the whole conversation, or of one of its answers."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    BINDINGS = [
        _key("escape,q,f7", "close", "Close", "close_figures", "back to the chat", "Esc"),
        _key("left", "step(-1)", "Before", "figures_before", "only the answer before", "←"),
        _key("right", "step(1)", "After", "figures_after", "only the answer after", "→"),
        _key("home", "whole", "All", "figures_all", "all answers", "Home"),
        _key("l", "scale", "Log", "figures_scale", "a logarithmic scale, or from zero"),
        _key("e", "export", "Export", "export_figures", "times and figures into a file"),
    ]

    def __init__(self, chat: "ChatScreen") -> None:
        super().__init__()
        self._chat = chat
        self._place: int | None = None  # of the answer; None: all
        self._is_logarithmic = False

    def compose(self) -> ComposeResult:
        yield Static(about.title(self._chat.session), markup=False, id="about")
        with VerticalScroll(id="figures", can_focus=False):
            with Vertical(id="plots"):
                yield TimesPlot(PREFILL_TITLE, id="prefill")
                yield TimesPlot(DECODE_TITLE, id="decode")
            with VerticalScroll(id="numbers"):
                yield Static(markup=False)
        yield Static(markup=False, id="said")
        yield Footer()

    def on_mount(self) -> None:
        """Show what there is, and go on with it."""
        self.query_one("#numbers").focus()
        self.show()
        self.set_interval(1, self.show)

    def answers(self) -> list[AnswerTimes]:
        """All of the line that is shown, the one that is being written among them."""
        chat = self._chat
        now = chat.answering.timings_now
        return answer_times(chat.conversation.line, now, chat.session.model_name)

    def show(self) -> None:
        """The figures as they are now."""
        if self._chat.is_replaced or not self.query("#numbers"):  # or quit just now
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
                *_machine_rows(self._chat.session),
                Content(),
                row(heading, f"of {len(every)}" if self._place is not None else f"{len(every)}"),
                *total_rows(figures),
                Content(),
                *memory_rows(report, model_memory(self._chat.session, report)),
                row("Paging", self._chat.panels.sign or "none"),
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

    def commands(self) -> Iterator[SystemCommand]:
        """Their actions, for the command palette."""
        titles = {
            "figures_before": "Answer before",
            "figures_after": "Answer after",
            "figures_all": "All answers",
            "figures_scale": "Logarithmic scale",
            "export_figures": "Export the figures",
            "close_figures": "Close the figures",
        }
        for binding in bindings_of(type(self)):
            name = str(binding.id)
            keys = shown(keys_of(name, self.app.keymap))  # type: ignore[attr-defined]
            run = partial(self.run_action, binding.action)
            yield SystemCommand(titles[name], f"{binding.tooltip} ({keys})", run)

    def action_close(self) -> None:
        """Back to the chat."""
        self.dismiss()

    def action_step(self, step: int) -> None:
        """One answer: before the first and after the last come all of them."""
        places: list[int | None] = [None, *range(len(self.answers()))]
        self._place = places[(places.index(self._place) + step) % len(places)]
        self.show()

    def action_whole(self) -> None:
        """All answers."""
        self._place = None
        self.show()

    def action_scale(self) -> None:
        """From zero, or logarithmic."""
        self._is_logarithmic = not self._is_logarithmic
        self.show()

    # Export

    @work(group="command")
    async def action_export(self) -> None:
        """Ask for a file and write it."""
        number = self._chat.conversation.stored_id
        name = f"llama_cpu-times-{number}.csv" if number else "llama_cpu-times.csv"
        question = "Export the times and figures; the name ends in .csv or .json:"
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
            question = f"{path} is there already. Replace it?"
            confirm = Confirm(printable(question), yes="Replace", no="Keep it")
            if not await self.app.push_screen_wait(confirm):
                return "Nothing was exported."
        answers = self.answers()
        about_all = facts(self._chat.session)

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
    """A whole path. Raises UserError where it cannot be one, or does not say which format."""
    try:
        path = Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # ~ of somebody who is not there; no current folder
        raise UserError(f"{text[:60]} names a folder that is not there.") from error
    if path.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"{path.name[:60]} ends neither in .csv nor in .json; name another file.")
    return path


def facts(session: "ChatSession") -> dict[str, Any]:
    """For the export: what was measured, and the memory in bytes as it is now."""
    report = memory_report()
    return {
        "model": session.model_name,
        "precision": session.precision,
        "threads": session.threads,
        "processor": processor_name(),
        "memory": {**asdict(report), **asdict(model_memory(session, report))},
    }


def _machine_rows(session: "ChatSession") -> list[Content]:
    return [
        Content(printable(processor_name())),
        row("Threads", str(session.threads)),
        row("Precision", session.precision),
    ]


def hits(figures: Totals) -> str:
    """Of prefill, what matters most."""
    part = MISSING if figures.cache_hits is None else f"{figures.cache_hits:.1%}"
    return f"{rate(figures.prefill_rate)} · cache hits {part}"


def speed(figures: Totals) -> str:
    """Of decode, what matters most."""
    return (
        f"{rate(figures.decode_rate)} · median {duration(figures.median)} · "
        f"p95 {duration(figures.percentile_95)}"
    )


def total_rows(figures: Totals) -> list[Content]:
    """Prefill, cache and decode."""
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
