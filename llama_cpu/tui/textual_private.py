"""The private parts of Textual that the app uses, each with the reason.

Textual does not promise to keep them, so a new version of Textual is checked against this file.
"""

from textual.keys import REPLACED_KEYS, _character_to_key

__all__ = ["REPLACED_KEYS", "key_of_character"]


def key_of_character(character: str) -> str:
    """The name of the key that writes a character: ``question_mark`` for ``?``.

    Textual has a public function for the opposite direction only (``key_to_character``).
    """
    return _character_to_key(character)
