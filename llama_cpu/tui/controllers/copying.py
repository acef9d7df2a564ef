"""What is copied goes to the terminal's clipboard (OSC 52), and into a file.

Whether a terminal obeys cannot be found out; where it does not, the file has the text.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cpu.system.paths import cache_folder
from llama_cpu.tui.about import short_path

if TYPE_CHECKING:
    from textual.app import App


def copy(app: "App[int]", text: str, what: str) -> str:
    """Copy; returns the sentence that says so."""
    app.copy_to_clipboard(text)
    try:
        path = _write(text)
    except OSError:  # then there is only the clipboard
        return f"{what} copied"
    return f"{what} copied; also in {short_path(path)}"


def _write(text: str) -> Path:
    path = cache_folder() / "copied.txt"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # For nobody else's eyes, as the conversations.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text.encode(errors="replace"))
    return path
