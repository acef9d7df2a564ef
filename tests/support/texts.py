"""Texts that tokenizers tend to disagree about."""

import random

PARTS = [
    "Hello", " world", "it's", "IT'S", "we'll", "I'd", " don't", "O'Neill", "l'été", "naïve",
    "12345", "3.14", " 1,000,000", "٣٤٥", "२०२४", "½", "Ⅷ", "x²", "²³",
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u200b", "\u2028",
    "漢字", "かな", "カタカナ", "한국어", "ไทย", "हिन्दी", "বাংলা", "عربي", "עברית", "Ελληνικά",
    "Русский", "ქართული", "Việt", "e\u0301", "n\u0303", "A\u030a", "\u1112\u1161\u11ab",
    "😀", "👩‍👩‍👧", "🇩🇪", "✅", "\U0001d518\U0001d52b", "ﬁ", "ǅ", "ß", "İ",
    "def f(x):\n    return x", "a+b=c;", "//", "/", "...", "—", "«ok»", "\"quoted\"", "`code`",
    "camelCase", "HTTPServer", "snake_case", "<b>", "&amp;", "$", "€", "[", "]", "{}",
    "\x00", "\x7f",
    "▁", "<0x41>", "[inst]", "<|im", "<think", "/no_think", "the quick brown fox",
]  # fmt: skip

_CHARACTERS = [*range(0x20, 0x3000), *range(0x1F300, 0x1F700)]


def many_texts(count: int, seed: int = 0) -> list[str]:
    """Each part alone, and random mixtures of up to 12 parts and single characters."""
    generator = random.Random(seed)
    texts = [*PARTS, *(part * 7 for part in PARTS)]
    while len(texts) < count:
        pieces = generator.choices(PARTS, k=generator.randint(1, 12))
        if generator.random() < 0.3:
            pieces.insert(
                0, chr(generator.choice([*range(0x20, 0x3000), *range(0x1F300, 0x1F700)]))
            )
        texts.append("".join(pieces))
    return texts
