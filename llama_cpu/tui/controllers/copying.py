"""Copies text to the terminal's clipboard (OSC 52) and to a file.

A program cannot find out whether the terminal supports this, so the text is also in the file.
"""

import os
from pathlib import Path

from llama_cpu.system.paths import cache_folder, short_path
from llama_cpu.tui.controllers.view import ChatView


def copy(view: ChatView, text: str, what: str) -> str:
    """Copy a text; return the sentence that says so."""
    view.copy_to_clipboard(text)
    try:
        path = _write(text)
    except OSError:  # there is only the clipboard
        return f"{what} copied"
    return f"{what} copied; also in {short_path(path)}"


def _write(text: str) -> Path:
    path = cache_folder() / "copied.txt"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Readable by this user only, as the conversations are.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text.encode(errors="replace"))
    return path
