"""The folders in which other programs keep models on this computer.

Sources: LM Studio, "Import models"; GPT4All, "Download path" in its settings; Ollama's FAQ, "Where
are models stored?"; llama.cpp, common/common.cpp: fs_get_cache_directory; text-generation-webui,
user_data/models. The Hugging Face hub's cache is in ``hub/places.py``.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_SETTINGS_BYTES = 1 << 20


def folders_of_other_programs() -> Iterator[tuple[str, Path]]:
    """Yield the name of a program and a folder of its models, which need not exist."""
    home = _home()
    for folder in _lm_studio(home):
        yield "LM Studio", folder
    yield "GPT4All", _user_data(home) / "nomic.ai" / "GPT4All"
    for name in ("text-generation-webui", "textgen"):
        yield "text-generation-webui", home / name / "user_data" / "models"
        yield "text-generation-webui", home / name / "models"
    yield "llama.cpp", _llama_cpp(home)


def ollama_folders() -> Iterator[Path]:
    """Yield the folders of Ollama's models: of this user, and of Ollama as a service on Linux."""
    if moved := os.environ.get("OLLAMA_MODELS"):
        yield _expanded(moved)
        return
    yield _home() / ".ollama" / "models"
    if sys.platform == "linux":
        yield Path("/usr/share/ollama/.ollama/models")


def _lm_studio(home: Path) -> Iterator[Path]:
    """Yield the folder in LM Studio's settings and its default folders, new and old."""
    root = home / ".lmstudio"
    try:
        with (root / "settings.json").open("rb") as file:
            moved = json.loads(file.read(_SETTINGS_BYTES)).get("downloadsFolder")
        if isinstance(moved, str) and moved and "\0" not in moved:
            yield _expanded(moved)
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    yield root / "models"
    yield home / ".cache" / "lm-studio" / "models"


def _llama_cpp(home: Path) -> Path:
    if moved := os.environ.get("LLAMA_CACHE"):
        return _expanded(moved)
    if sys.platform == "win32":
        return _local_app_data(home) / "llama.cpp"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "llama.cpp"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "llama.cpp"


def _user_data(home: Path) -> Path:
    if sys.platform == "win32":
        return _local_app_data(home)
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    return _expanded(os.environ.get("XDG_DATA_HOME") or "~/.local/share")


def _local_app_data(home: Path) -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")


def _home() -> Path:
    return _expanded("~")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the user has no home folder
        return Path(path)
