"""Keeps the traceback of an unexpected error in a file, so that it need not be on the screen."""

import contextlib
import os
import platform
import time
import traceback
from pathlib import Path

from llama_cpu import __version__
from llama_cpu.system.paths import state_folder
from llama_cpu.system.text import printable


def write_fault(error: BaseException) -> Path | None:
    """Write the traceback to ``fault.log``, in place of the one before.

    Returns its path; None if it cannot be written. Only this user can read the file, since an
    error's message may quote a conversation.
    """
    path = state_folder() / "fault.log"
    python = platform.python_version()
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  llama_cpu {__version__}, Python {python}\n\n"
    text = printable(head + "".join(traceback.format_exception(error)))
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(text.encode(errors="replace"))
        return path
    return None
