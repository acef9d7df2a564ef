"""Prompts from standard input, with a maximum length."""

import sys
from collections.abc import Callable

from llama_cpu.errors import UserError

_LONGEST = 1 << 22  # characters; about a million tokens


def read_all() -> str:
    """Read until the end of the input. Raises UserError if it is too long or not UTF-8."""
    return _read(lambda: sys.stdin.read(_LONGEST + 1))


def read_line() -> str | None:
    """Read one line without its line break, or None at the end. Raises as ``read_all`` does."""
    line = _read(lambda: sys.stdin.readline(_LONGEST + 1))
    return line.rstrip("\r\n") if line else None


def require_text(text: str, what: str) -> str:
    """Return ``text`` if it can be encoded as UTF-8.

    Raises UserError, with ``what`` as the subject, if it contains lone surrogates: Python decodes
    bytes that are not UTF-8 to these in command-line arguments and standard input.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} is not UTF-8 text; convert it, for instance with iconv."
        ) from error
    return text


def _read(read: Callable[[], str]) -> str:
    try:
        text = require_text(read(), "Standard input")
    except UnicodeDecodeError as error:
        raise UserError(
            "Standard input is not UTF-8 text; convert it, for instance with iconv."
        ) from error
    if len(text) > _LONGEST:
        raise UserError(
            f"The prompt has more than {_LONGEST} characters; no model reads that much."
        )
    return text
