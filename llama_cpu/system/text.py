"""Text from a model or a file, made safe to show."""

# C0 controls have pictures at U+2400; DEL and the C1 controls (which some terminals obey, too)
# have none that say which they are, so they become the replacement character.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
_VISIBLE[0x7F] = "\u2421"
_VISIBLE.update(dict.fromkeys(range(0x80, 0xA0), "\ufffd"))


def printable(text: str) -> str:
    """The same text with every control character but tab and newline replaced by a visible sign.

    What a model writes is data: an escape sequence in it must reach the screen as characters,
    never the terminal as a command.
    """
    return text.translate(_VISIBLE)


def human_bytes(count: float) -> str:
    """Bytes in binary units, three digits at most: ``1.2 GiB``, ``340 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:
            return (
                f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} TiB"
