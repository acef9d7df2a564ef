"""Starts a command, or says what to install first. It imports nothing that must be installed."""

import importlib
import sys
from pathlib import Path

from llama_cpu.errors import EXIT_USER_ERROR

_CHECKOUT = Path(__file__).resolve().parents[2]


def run(function: str) -> int:
    """Call a function of ``cli.main`` and return its exit code.

    If a package is missing that the program needs, print one sentence with the command to run.
    """
    try:
        main = importlib.import_module("llama_cpu.cli.main")
    except ModuleNotFoundError as error:
        if is_own(error):
            raise
        print(f"Error: {missing(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return int(getattr(main, function)())


def is_own(error: ModuleNotFoundError) -> bool:
    """Return whether a module of this program is missing, which no installation helps."""
    return (error.name or "").partition(".")[0] in ("", "llama_cpu")


def missing(error: ModuleNotFoundError) -> str:
    """Say which package is missing, and the command that installs all that the program needs."""
    package = (error.name or "").partition(".")[0]
    wanted = "llama_cpu"
    if (_CHECKOUT / "requirements.txt").exists():
        is_here = Path.cwd() == _CHECKOUT
        file = "requirements.txt" if is_here else str(_CHECKOUT / "requirements.txt")
        wanted = f'-r "{file}"' if " " in file else f"-r {file}"
    hint = " (for PyTorch without CUDA, see the README first)" if sys.platform == "linux" else ""
    python = Path(sys.executable).name or "python"
    return f"The package {package} is missing; run {python} -m pip install {wanted}{hint}."
