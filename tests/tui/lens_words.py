"""An answer of six tokens in two lines, as the lens gets it."""

import math
import threading

from llama_cpu.chat.lens import Candidate, LensPart, LensToken

OTHERS = (0.2, 0.1, 0.05, 0.02, 0.01)


def token(
    id: int, shown: str, probability: float = 0.5, seconds: float | None = 0.02, text: str = ""
) -> LensToken:
    others = tuple(
        Candidate(100 + 10 * id + n, f" other{n}", math.log(p)) for n, p in enumerate(OTHERS)
    )
    rank = 1 if probability >= 0.5 else 3
    return LensToken(id, text or shown, shown, math.log(probability), rank, others, seconds)


WORDS = tuple(
    token(number, word, probability, seconds)
    for number, (word, probability, seconds) in enumerate(
        [
            ("The", 0.95, 0.001),
            (" cat", 0.6, 0.02),
            (" sat", 0.3, 0.02),
            (".\n", 0.1, 0.03),
            ("Then", 0.01, 0.5),
            (" it", 0.99, 0.02),
        ]
    )
)


def looks() -> list[LensPart | threading.Event | Exception]:
    return [LensPart(0, 20), LensPart(14, 20), LensPart(20, 20, WORDS)]
