"""Models to begin with, which are downloaded from the hub, and any other by its name."""

import threading
import time
from collections import deque
from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Static

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.hub.cached import cached_model
from llama_cpu.hub.reference import Reference, parse_reference
from llama_cpu.hub.starters import Starter, starters
from llama_cpu.system.memory import available_memory
from llama_cpu.system.text import human_bytes, printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.model_source import Pull
from llama_cpu.tui.number_format import bar, duration

HELP = "Enter downloads into Hugging Face's cache; Esc: back; ! is more than is free."
UNKNOWN = "No such model in the list; write ORG/REPO or ORG/REPO:QUANT to download any other."
_BAR_WIDTH = 56
_LOW = 18  # lines of a window, from which on nothing need be left out
_MOST_ROWS = 12  # of the table, its heading included
_SPEED_SECONDS = 10  # over which the speed is measured


class Speed:
    """The bytes per second of the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._what = ""

    def add(self, now: float, done: int, what: str) -> None:
        """Note what is done; the measurement begins anew with something else."""
        if what != self._what or (self._samples and done < self._samples[-1][1]):
            self._samples.clear()
            self._what = what
        self._samples.append((now, done))
        while now - self._samples[0][0] > _SPEED_SECONDS:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - begin) if end > begin else 0.0


class DownloadScreen(ModalScreen[Path | None]):
    """The result is the path of the model that was downloaded, or None."""

    BINDINGS = bindings(Scope.DOWNLOADS)

    class Done(Message):
        """A download ended; with a sentence if it failed, without both if it was paused."""

        def __init__(self, path: Path | None = None, problem: str = "") -> None:
            super().__init__()
            self.path, self.problem = path, problem

    def __init__(self, pull: Pull) -> None:
        super().__init__()
        self._pull = pull
        self._models = starters()
        self._shown: list[Starter] = []
        self._stop: threading.Event | None = None  # of the download that is running
        self._progress = (0, 0, "")  # written by its thread
        self._speed = Speed()

    def compose(self) -> ComposeResult:
        with Vertical(id="downloads"):
            yield Input(placeholder="Name, or ORG/REPO:QUANT of any other model")
            yield DataTable(cursor_type="row", fixed_columns=1)
            yield Static(HELP, markup=False, id="transfer")

    def on_mount(self) -> None:
        """List the models."""
        table = self.query_one(DataTable)
        for label in ("Model", "Size", "Memory", "Licence", "Quantization"):
            table.add_column(label)
        self._list("")
        self.query_one(Input).focus()
        self.set_interval(0.2, self._show_progress)

    def on_unmount(self) -> None:
        """Pause the download; the next one goes on with it."""
        if self._stop:
            self._stop.set()

    def on_resize(self, event: Resize) -> None:
        """Keep the progress in sight in low windows: the rest is lower, too."""
        height, is_low = event.size.height, event.size.height < _LOW
        self.set_class(is_low, "low")
        self.query_one(Input).compact = is_low
        table = self.query_one(DataTable)
        table.styles.max_height = max(2, min(_MOST_ROWS, height - (6 if is_low else 10)))

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        self._list(event.value)

    def _list(self, text: str) -> None:
        words = text.casefold().split()
        self._shown = [
            each
            for each in self._models
            if all(word in f"{each.name} {each.reference}".casefold() for word in words)
        ]
        table, free = self.query_one(DataTable), available_memory()
        table.clear()
        for each in self._shown:
            is_here = cached_model(each.reference) is not None
            cells = (
                each.name,
                "is here" if is_here else human_bytes(each.bytes),
                human_bytes(each.memory) + ("!" if each.memory > free else ""),
                each.licence,
                each.quantization,
            )
            table.add_row(*map(Text, cells))
        if self._stop is None:
            self._say(HELP if self._shown else UNKNOWN)

    def action_move(self, step: int) -> None:
        """Move the cursor of the table, also while a name is written."""
        table = self.query_one(DataTable)
        table.move_cursor(row=table.cursor_row + step)

    @on(DataTable.RowSelected)
    def _row_chosen(self) -> None:
        self._choose()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self._choose()

    def _choose(self) -> None:
        """Download the model at the cursor, or else the one whose name is written."""
        if self._stop:
            return
        row = self.query_one(DataTable).cursor_row
        if self._shown:
            self._begin(self._shown[min(max(row, 0), len(self._shown) - 1)].reference)
            return
        try:
            self._begin(parse_reference(self.query_one(Input).value))
        except UserError as error:
            self._say(str(error))

    def _begin(self, reference: Reference) -> None:
        self._stop, self._progress = threading.Event(), (0, 0, f"asking for {reference}")
        self._speed = Speed()
        self._show_progress()
        self._download(reference, self._stop)

    @work(thread=True, exit_on_error=False)
    def _download(self, reference: Reference, stop: threading.Event) -> None:
        def note(done: int, total: int, text: str) -> None:
            self._progress = (done, total, text)

        try:
            self.post_message(self.Done(self._pull(reference, note, stop)))
        except Cancelled:
            self.post_message(self.Done())
        except UserError as error:
            self.post_message(self.Done(problem=str(error)))
        except Exception as error:  # a bug in this program or a library must not end the chat
            problem = f"The download failed: {type(error).__name__}: {error}"[:300]
            self.post_message(self.Done(problem=problem))

    def on_download_screen_done(self, message: Done) -> None:
        """Return to the models, or say why there is nothing to return with."""
        self._stop = None
        if message.path:
            self.dismiss(message.path)
            return
        done, total, _ = self._progress
        amount = f" at {human_bytes(done)} of {human_bytes(total)}" if total else ""
        self._say(message.problem or f"Paused{amount}; Enter goes on, Esc leaves.")

    def _show_progress(self) -> None:
        if self._stop is None or self._stop.is_set():
            return
        done, total, text = self._progress
        if total:
            self._speed.add(time.monotonic(), done, text)
        rate = self._speed.rate if total else 0.0
        width = min(_BAR_WIDTH, self.query_one("#transfer").size.width)
        self._say(progress_text(done, total, text, rate, width))

    def _say(self, text: str) -> None:
        self.query_one("#transfer", Static).update(printable(text))

    def action_leave(self) -> None:
        """Pause the download if there is one, else leave."""
        if self._stop and not self._stop.is_set():
            self._stop.set()
            self._say("Pausing…")
        else:
            self.dismiss(None)


def progress_text(done: int, total: int, text: str, rate: float, width: int) -> str:
    """Format the bytes done, the speed and the time left, a bar, and what is being done.

    The figures come first, because a low window cuts off the rest.
    """
    if not total:
        return f"{text}…\n{bar(0, width)}\nEsc cancels."
    figures = f"{human_bytes(done)} of {human_bytes(total)}  ·  {done / total:.0%}"
    if rate > 0:
        left = duration((total - done) / rate)
        figures += f"  ·  {human_bytes(rate)}/s  ·  about {left} left"
    return f"{figures}\n{bar(done / total, width)}\n{text}; Esc pauses."
