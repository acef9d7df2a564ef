"""Prompts from standard input: text, and not without end."""

import sys
from collections.abc import Callable

from llama_cpu.errors import UserError

_LONGEST = 1 << 22  # characters; about a million tokens


def read_all() -> str:
    """Everything until the end. Raises UserError where it is not text or too long."""
    return _read(lambda: sys.stdin.read(_LONGEST + 1))


def read_line() -> str | None:
    """One line without its end; None after the last. Raises UserError as read_all does."""
    line = _read(lambda: sys.stdin.readline(_LONGEST + 1))
    return line.rstrip("\r\n") if line else None


def require_text(text: str, what: str) -> str:
    """The text itself. Raises UserError where it was made of bytes that are not UTF-8, which
    Python keeps as lone surrogates."""
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
