"""Where the user's files are."""

from pathlib import Path

import platformdirs


def project_folder() -> Path:
    """The checkout that this package lies in, or the current folder if installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "model").is_dir() else Path.cwd()


def model_folder() -> Path:
    return project_folder() / "model"


def tokenizer_folder() -> Path:
    return project_folder() / "tokenizer"


def cache_folder() -> Path:
    """For what can be fetched again: the demo model."""
    return platformdirs.user_cache_path("llama_cpu", appauthor=False)


def kv_folder() -> Path:
    """KV caches of conversations, which can be computed again."""
    return cache_folder() / "kv"


def history_path() -> Path:
    """The database of conversations, unless --history names another."""
    return platformdirs.user_data_path("llama_cpu", appauthor=False) / "history.db"


def config_path() -> Path:
    """The user's own defaults, unless --config names another."""
    return platformdirs.user_config_path("llama_cpu", appauthor=False) / "config.toml"


def state_folder() -> Path:
    """For what the app remembers of itself."""
    return platformdirs.user_state_path("llama_cpu", appauthor=False)
