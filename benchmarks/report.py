"""The table of results, printed row by row, and the notes below it."""

import statistics
from dataclasses import astuple, dataclass

HEAD = ("model", "precision", "what", "ours", "peer", "ratio", "of the limit")


@dataclass(frozen=True)
class Row:
    """One measurement; a ratio above 1 is in our favour."""

    model: str
    precision: str
    what: str
    ours: str = ""
    peer: str = ""
    ratio: str = ""
    of_limit: str = ""


class Report:
    """Prints rows at once, so that the results of an interrupted run are not lost."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def add(self, row: Row) -> None:
        if not self.rows:
            _print_cells(HEAD)
            _print_cells(("---",) * len(HEAD))
        self.rows.append(row)
        _print_cells(astuple(row))

    def note(self, text: str) -> None:
        """Add a note below the table, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def finish(self) -> None:
        for note in self.notes:
            print(f"\n{note}", flush=True)


def _print_cells(cells: tuple[str, ...]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def rate(value: float) -> str:
    """Format a rate with three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def machine_note(samples: dict[str, list[float]], threads: int) -> str:
    """Describe the machine. ``samples``: bytes and operations per second, by kind."""

    def both(kind: str) -> str:
        values = [value / 1e9 for value in samples[kind]]
        return f"{rate(statistics.median(values))} ({rate(max(values))})"

    return (
        f"This machine with {threads} threads, median (best) of {len(samples['read'])}: memory is "
        f"read at {both('read')} GB/s; matrix products at {both('float32')} GFLOP/s in float32, "
        f"{both('bf16')} in bfloat16, {both('int8')} in int8."
    )


def disturbance_note(shares: list[float]) -> str:
    return (
        f"Other programs took {percent(statistics.median(shares))} of the cores (median of "
        f"{len(shares)} measurements), {percent(max(shares))} at the most."
    )
