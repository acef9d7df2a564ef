"""Default locations of the user's files."""

from pathlib import Path

import platformdirs

from llama_cpu.errors import UserError


def project_folder() -> Path:
    """Return the checkout that contains this package, or the current folder if there is none."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "model").is_dir() else Path.cwd()


def model_folder() -> Path:
    """Return the folder of the user's model."""
    return project_folder() / "model"


def holds_checkpoint(folder: Path) -> bool:
    """Return whether the folder contains a file that ``open_checkpoint`` would read."""
    patterns = ("params.json", "config.json", "*.pth", "*.safetensors", "*.bin", "*.gguf")
    return folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in patterns)


def require_exists(path: Path) -> None:
    """Raise UserError unless there is a model's file or folder."""
    if not path.exists():
        raise UserError(f"{path} does not exist; name a folder with a model, or a .gguf file.")


def tokenizer_folder() -> Path:
    """Return the folder of ``tokenizer.model``, for models that do not bring a tokenizer."""
    return project_folder() / "tokenizer"


def cache_folder() -> Path:
    """Return the folder of files that can be fetched or computed again."""
    return platformdirs.user_cache_path("llama_cpu", appauthor=False)


def kv_folder() -> Path:
    """Return the folder of saved KV caches."""
    return cache_folder() / "kv"


def products_path() -> Path:
    """Return the file of the measured products of weight formats."""
    return cache_folder() / "products.json"


def history_path() -> Path:
    """Return the default database of conversations (``--history`` names another)."""
    return platformdirs.user_data_path("llama_cpu", appauthor=False) / "history.db"


def config_path() -> Path:
    """Return the default configuration file (``--config`` names another)."""
    return platformdirs.user_config_path("llama_cpu", appauthor=False) / "config.toml"


def state_folder() -> Path:
    """Return the folder of the app's own state, such as whether the welcome was shown."""
    return platformdirs.user_state_path("llama_cpu", appauthor=False)


def short_path(path: Path) -> str:
    """Write a path below the user's home as ``~/llama/model``."""
    try:
        return str("~" / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):  # it is elsewhere, or there is no home
        return str(path)
