"""The private parts of Textual that the app uses, each with the reason.

Textual does not promise to keep them, so a new version of Textual is checked against this file.
"""

from enum import Enum

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.keys import REPLACED_KEYS, _character_to_key

__all__ = ["REPLACED_KEYS", "key_of_character", "tell_alt_enter"]


class _AltEnter(Enum):
    ALT_ENTER = "alt+enter"


def tell_alt_enter() -> None:
    """Tell Alt+Enter from Enter in terminals that send an escape before the Enter.

    Textual does so for letters only, and has no public table of such sequences.
    """
    ANSI_SEQUENCES_KEYS["\x1b\r"] = (_AltEnter.ALT_ENTER,)  # type: ignore[index]


def key_of_character(character: str) -> str:
    """The name of the key that writes a character: ``question_mark`` for ``?``.

    Textual has a public function for the opposite direction only (``key_to_character``).
    """
    return _character_to_key(character)
