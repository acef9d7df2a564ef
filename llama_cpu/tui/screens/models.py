"""The models on this computer and the memory that each needs; choosing one loads it."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static
from textual.widgets.data_table import ColumnKey

from llama_cpu.system.memory import available_memory
from llama_cpu.system.paths import short_path
from llama_cpu.system.text import human_bytes, printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.model_source import ChosenModel
from llama_cpu.weights.formats import FORMATS, format_of, labels

if TYPE_CHECKING:  # these modules import PyTorch
    from llama_cpu.loading.discovery import FoundModel, ModelFacts

HELP = "Left, right: precision; Enter loads; D: more models; ! is more than is free."
NOTHING = "No models were found; D downloads one, or list folders in config.toml."
_WIDEST = 100  # columns of the screen, as in the style sheet
_BESIDE_NAME = 28 + 10 * len(FORMATS)  # columns of the other cells
_LEAST_NAME = 20  # columns; beside it, the table scrolls


class ModelScreen(ModalScreen[ChosenModel | None]):
    """A table of models. Their headers are read in a thread, one after the other."""

    BINDINGS = bindings(Scope.MODELS)

    class Listed(Message):
        """The models that were found by one look for them."""

        def __init__(self, models: list["FoundModel"], look: threading.Event) -> None:
            super().__init__()
            self.models, self.look = models, look

    class Read(Message):
        """The header of one model was read."""

        def __init__(self, row: int, facts: "ModelFacts", look: threading.Event) -> None:
            super().__init__()
            self.row, self.facts, self.look = row, facts, look

    class DownloadsRequested(Message):
        """The user wants to download a model."""

    def __init__(
        self, find: Callable[[], Iterable["FoundModel"]], precision: str, kv_int8: bool = False
    ) -> None:
        """``precision``: the column of the cursor at first. ``kv_int8``: see ``facts_of``."""
        super().__init__()
        self._find = find
        self._precision = precision
        self._kv_int8 = kv_int8
        self._models: list[FoundModel] = []
        self._facts: dict[int, ModelFacts] = {}  # by the row
        self._look_ends = threading.Event()  # of the present look for models
        self._wanted: Path | None = None  # the model that the cursor goes to

    def compose(self) -> ComposeResult:
        with Vertical(id="models"):
            yield Static("Looking for models…", markup=False, id="free")
            yield DataTable(cursor_type="cell", zebra_stripes=False, fixed_columns=1)
            yield Static(HELP, markup=False, id="details")

    def on_mount(self) -> None:
        """Start to look for models."""
        table = self.query_one(DataTable)
        for label in ("Model", "Size", "Type", *labels()):
            table.add_column(label, key=label)
        table.focus()
        self._look(self._look_ends)

    def on_unmount(self) -> None:
        """Stop reading headers."""
        self._look_ends.set()

    def look_again(self, wanted: Path) -> None:
        """List all models again, and move the cursor to one of them."""
        self._look_ends.set()
        self._look_ends, self._wanted = threading.Event(), wanted
        self._look(self._look_ends)

    @work(thread=True, exit_on_error=False)
    def _look(self, ends: threading.Event) -> None:
        from llama_cpu.loading.discovery import facts_of

        models = list(self._find())
        self.post_message(self.Listed(models, ends))
        for row, found in enumerate(models):
            if ends.is_set():
                return
            self.post_message(self.Read(row, facts_of(found, self._kv_int8), ends))

    def on_model_screen_listed(self, message: Listed) -> None:
        """List the names; the rest follows as the headers are read."""
        if message.look is not self._look_ends:
            return
        table, models = self.query_one(DataTable), message.models
        table.clear()
        self._facts.clear()
        free = human_bytes(available_memory())
        self.query_one("#free", Static).update(f"{free} of memory are free." if models else NOTHING)
        self._models = models
        room = max(_LEAST_NAME, min(self.size.width, _WIDEST) - _BESIDE_NAME)
        for row, found in enumerate(models):
            name = printable(found.name)
            shown = name if len(name) <= room else name[: room - 1] + "…"
            blank = [Text("…", "dim")] * (2 + len(FORMATS))
            table.add_row(Text(shown.replace("\n", " ")), *blank, key=str(row))
        if models:
            paths = [found.path for found in models]
            row = paths.index(self._wanted) if self._wanted in paths else 0
            table.move_cursor(row=row, column=3 + labels().index(self._precision))

    def on_model_screen_read(self, message: Read) -> None:
        """Fill a row of the table."""
        from llama_cpu.loading.memory_estimate import program_in_memory

        if message.look is not self._look_ends:
            return
        table, row, facts = self.query_one(DataTable), message.row, message.facts
        self._facts[row] = facts
        free = available_memory() + program_in_memory()  # the program is part of what is needed
        cells = ["?", "?", *("-" for _ in FORMATS)]
        if facts.memory:
            cells = [count(facts.parameters), facts.file_type]
            cells += [needed(each.total, free) for each in facts.memory.values()]
        for column, cell in zip(list(table.columns)[1:], cells, strict=True):
            table.update_cell(str(row), ColumnKey(column.value), Text(cell), update_width=True)
        if table.cursor_row == row:
            self._explain(row)

    @on(DataTable.CellHighlighted)
    def _moved(self, event: DataTable.CellHighlighted) -> None:
        self._explain(event.coordinate.row)

    def _explain(self, row: int) -> None:
        if not 0 <= row < len(self._models):
            return
        facts, found = self._facts.get(row), self._models[row]
        about = "reading its header"
        if facts:
            parts = (facts.architecture, found.program, short_path(found.path))
            about = facts.problem or " · ".join(filter(None, parts))
        self.query_one("#details", Static).update(f"{printable(about)}\n{HELP}")

    @on(DataTable.CellSelected)
    def _chosen(self, event: DataTable.CellSelected) -> None:
        row, column = event.coordinate
        if row < len(self._models):
            chosen = FORMATS[column - 3] if column >= 3 else format_of(self._precision)
            self.dismiss(ChosenModel(self._models[row], chosen))

    def action_download(self) -> None:
        """Ask for the list of models to download."""
        self.post_message(self.DownloadsRequested())

    def action_cancel(self) -> None:
        """Keep the present model."""
        self.dismiss(None)


def count(parameters: int) -> str:
    """Format a number of parameters: ``135 M``, ``6.7 B``."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            amount = parameters / size
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return str(parameters)


def needed(amount: int, free: int) -> str:
    """Format an amount of memory, marked with ``!`` if less is free."""
    return human_bytes(amount) + ("!" if amount > free else "")
