"""Where the hub's cache is and whether the hub may be asked, as huggingface_hub defines it.

The environment is read here each time, without importing huggingface_hub, which takes 0.3 s.
Source: huggingface_hub, "Environment variables" and "Understand caching".
"""

import os
from pathlib import Path

HUB = "https://huggingface.co"


def hub_cache() -> Path:
    """Return the folder of the hub's cache, which need not exist."""
    environment = os.environ
    home = environment.get("HF_HOME") or str(
        Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    path = os.path.expandvars(cache or str(Path(home) / "hub"))
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the user has no home folder
        return Path(path)


def repository_folder(repository: str) -> Path:
    """Return the folder of a repository in the hub's cache."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def endpoint() -> str:
    """Return the address of the hub, or of the user's mirror."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def is_offline() -> bool:
    """Return whether the user asked huggingface_hub not to use the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")
