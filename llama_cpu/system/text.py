"""Text from a model or a file, made safe to display."""

# Unicode has symbols for the C0 controls from U+2400 on, and one for DEL. It has none for the C1
# controls, which some terminals obey, so they become the replacement character.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
_VISIBLE[0x7F] = "\u2421"
_VISIBLE.update(dict.fromkeys(range(0x80, 0xA0), "\ufffd"))


def printable(text: str) -> str:
    """Replace every control character except tab and newline by a visible symbol.

    Escape sequences in a model's output are therefore displayed and not executed by the terminal.
    """
    return text.translate(_VISIBLE)


def cleaned(text: str) -> str:
    """The same as ``printable``, with every kind of line end as a newline."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def human_bytes(count: float) -> str:
    """Format a number of bytes in binary units with at most three digits: ``1.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:
            return (
                f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} TiB"


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, so that it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
