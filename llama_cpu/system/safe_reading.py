"""Bounded reads of untrusted files: regular files only, up to a maximum size."""

import json
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError

SMALL_FILE_BYTES = 256 << 20  # the largest known tokenizer.json has 35 MB


def require_regular(path: Path, of: str = "the model") -> None:
    """Refuse pipes, devices and folders, which could block or never end.

    Raises OSError if the path does not exist and UserError if it is not a regular file. ``of``
    names what the file belongs to, for the message.
    """
    path.stat()
    if not path.is_file():
        raise UserError(f"{path} is not a file; get a good copy of {of}.")


def read_small_file(path: Path, of: str = "the model") -> bytes:
    """Read a whole file that contains no weights. Raises UserError.

    ``of``: as in ``require_regular``.
    """
    try:
        require_regular(path, of)
        with path.open("rb") as file:
            data = file.read(SMALL_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; get a complete copy of {of}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise UserError(f"{path} cannot be read ({reason(error)}).") from error
    if len(data) > SMALL_FILE_BYTES:
        raise UserError(f"{path} is far too large for such a file; get a good copy of it.")
    return data


def read_json(path: Path, of: str = "the model") -> dict[str, Any]:
    """Read a JSON object from a file. Raises UserError if the file contains anything else."""
    try:
        values = json.loads(read_small_file(path, of).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON; get a good copy of this file.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object; get a good copy of this file.")
    return values


def reason(error: Exception) -> str:
    """Return the system's description of an error, without the path that it repeats."""
    return getattr(error, "strerror", None) or str(error)
