"""A download on the command line, with a progress bar on standard error."""

import sys
from threading import Event as Flag

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llama_cpu.hub.pull import Pulled, pull
from llama_cpu.hub.reference import Reference
from llama_cpu.system.text import human_bytes


def pull_with_bar(reference: Reference) -> Pulled:
    """Download a model; Ctrl+C pauses it. Raises what ``pull`` does, and KeyboardInterrupt."""
    console = Console(file=sys.stderr)
    last = (0, 0)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(f"asking for {reference}", total=None)

        def show(done: int, total: int, text: str) -> None:
            nonlocal last
            if not last[1]:  # what is there already counts for neither speed nor time
                progress.reset(task, total=total, completed=done)
            last = (done, total)
            progress.update(task, completed=done, description=text)

        try:
            pulled = pull(reference, show, Flag())
        except KeyboardInterrupt:
            progress.stop()
            print(_paused(*last), file=sys.stderr)
            raise
    if pulled.note:
        print(pulled.note, file=sys.stderr)
    return pulled


def _paused(done: int, total: int) -> str:
    amount = f" at {human_bytes(done)} of {human_bytes(total)}" if total else ""
    return f"Paused{amount}; the same command goes on from here."
