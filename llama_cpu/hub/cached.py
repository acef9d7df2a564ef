"""A model that is in the hub's cache already, found without asking the hub."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llama_cpu.errors import UserError
from llama_cpu.hub.choice import choose_files, is_complete
from llama_cpu.hub.places import repository_folder
from llama_cpu.hub.reference import Reference

_MOST = 1000  # files that are looked at


def cached_model(reference: Reference) -> Path | None:
    """Return the GGUF file or the folder of a model; None if it is not there completely."""
    folder = snapshot(repository_folder(reference.repository))
    if folder is None:
        return None
    names = [path.relative_to(folder).as_posix() for path in islice(_files(folder), _MOST)]
    try:
        choice = choose_files(names, reference)
    except UserError:
        return None
    if choice.is_folder:
        return folder if is_complete(names) else None
    return folder / choice.names[0]


def snapshot(repository: Path) -> Path | None:
    """Return the snapshot of the main branch, or else the first one; None if there is none."""
    try:
        snapshots = sorted(islice((repository / "snapshots").iterdir(), _MOST))
    except OSError:
        return None
    try:
        with (repository / "refs" / "main").open(encoding="ascii") as file:
            main = file.read(100).strip()
    except (OSError, ValueError):
        main = ""
    named = [each for each in snapshots if each.name == main]
    return next(iter(named or snapshots), None)


def _files(folder: Path, depth: int = 1) -> Iterator[Path]:
    """Yield the files of a snapshot and of its folders; links to missing blobs are left out."""
    try:
        entries = sorted(islice(folder.iterdir(), _MOST))
    except OSError:
        return
    for entry in entries:
        if entry.is_file():
            yield entry
        elif depth and entry.is_dir() and not entry.is_symlink():
            yield from _files(entry, depth - 1)
