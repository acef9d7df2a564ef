"""The name of a model on the hub, as the user writes it: ``ORG/REPO`` or ``ORG/REPO:QUANT``."""

import re
from dataclasses import dataclass

from llama_cpu.errors import UserError

EXAMPLE = "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"
_PREFIX = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
# The hub's own rules: ASCII letters, digits, ".", "_" and "-", no ".." or "--" in a row.
_NAME = r"(?!\.)(?!-)(?:[A-Za-z0-9_]|[.](?![.])|-(?!-)){1,96}"
_REFERENCE = re.compile(rf"({_NAME}/{_NAME})(?::([\w.-]{{1,64}}))?", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A repository, and the quantization that is wanted; "": the usual one."""

    repository: str
    quantization: str = ""

    def __str__(self) -> str:
        return f"{self.repository}:{self.quantization}" if self.quantization else self.repository


def parse_reference(text: str) -> Reference:
    """Parse ``ORG/REPO[:QUANT]``, also as the address of the repository's page.

    Raises UserError if it is something else.
    """
    match = _REFERENCE.fullmatch(_PREFIX.sub("", text.strip(), count=1).rstrip("/"))
    if not match:
        raise UserError(
            f"{text[:100]!r} is not the name of a model on the hub; write ORG/REPO or "
            f"ORG/REPO:QUANT, for instance {EXAMPLE}."
        )
    return Reference(match[1], match[2] or "")
