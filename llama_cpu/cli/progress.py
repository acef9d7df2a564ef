"""Loading with a progress bar on standard error, outside the app."""

import sys
from threading import Event as Flag

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from llama_cpu.chat.open_session import OpenSession
from llama_cpu.chat.session import ChatSession
from llama_cpu.loading.plan import LoadPlan


def load_with_progress(plan: LoadPlan, open_session: OpenSession) -> ChatSession:
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
        return open_session(
            lambda done, total, name: progress.update(
                task,
                completed=done,
                total=total,
                description=name if done == total else "",  # what is waited for
            ),
            Flag(),
        )
