"""Loading with a progress bar on standard error, outside the app."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from llama_cpu.loading.plan import LoadPlan
from llama_cpu.loading.weight_reader import Progress as OnProgress

Loaded = TypeVar("Loaded")


def load_with_progress(plan: LoadPlan, load: Callable[[OnProgress, Flag], Loaded]) -> Loaded:
    """Load the model, with a progress bar if standard error is a terminal. Ctrl+C interrupts it."""
    with Progress(
        TextColumn(f"Loading {plan.name}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("")
        return load(
            lambda done, total, name: progress.update(
                task,
                completed=done,
                total=total,
                description=name if done == total else "",  # what is waited for
            ),
            Flag(),
        )


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Show what is being done, in one line that disappears, if standard error is a terminal.

    Yields the function that is called with the line.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as shown:
        yield lambda text: shown.update(escape(text))
