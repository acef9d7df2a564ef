"""The process that renders chat templates, which are programs from strangers.

jinja2's sandbox keeps a template from accessing anything outside of it, but not from running
forever or filling the memory. The parent process kills this one after a time limit, and this one
limits its own memory. It reads one JSON object per line and answers each with another.
"""

import json
import sys
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llama_cpu.system.process import limit_memory, limit_time

# transformers always passes these two, so templates test them with "is not none".
_UNUSED = {"tools": None, "documents": None}
_MEMORY_LIMIT = 1 << 30  # bytes
_LONGEST = 1 << 24  # characters
_SECONDS = 20  # after this time the process ends itself, in case the parent was killed


def main() -> None:
    """Answer requests from standard input until it ends."""
    limit_memory(_MEMORY_LIMIT)
    print("ready", flush=True)
    for line in sys.stdin:
        limit_time(_SECONDS)
        reply = json.dumps(answer(json.loads(line)))
        limit_time(0)
        print(reply, flush=True)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"texts": [...]}``, one for each conversation, or ``{"error": "..."}``."""
    try:
        template = _environment().from_string(request["source"])
        texts = [
            template.render(**_UNUSED, **request["variables"], **conversation)
            for conversation in request["conversations"]
        ]
        if sum(map(len, texts)) > _LONGEST:
            raise ValueError("its text is too long")
        for text in texts:
            text.encode()  # raises if there is half of a surrogate pair
        return {"texts": texts}
    except Exception as error:  # a template can raise anything: division by zero, a wrong type
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def _environment() -> ImmutableSandboxedEnvironment:
    """Create an environment with the functions and settings that transformers gives to templates.

    Source: transformers, documentation "Writing a chat template".
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationBlock],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks text to train on; ignored here."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The ``tojson`` filter without jinja2's escaping for HTML, which would change the prompt."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    main()
