"""Error messages for unknown names, which suggest the most similar known name."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str], otherwise: str) -> str:
    """Say that a name is unknown, and suggest a similar one.

    For example: ``Unknown setting 'temprature'. Did you mean 'temperature'?``

    ``otherwise``: the second sentence if no known name is similar.
    """
    close = difflib.get_close_matches(name, list(known), 1)
    advice = f"Did you mean {close[0]!r}?" if close else otherwise
    return f"Unknown {kind} {repr(name)[:60]}. {advice}"
