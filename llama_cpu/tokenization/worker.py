"""The process that encodes with an unusual tokenizer.json, whose regular expressions may backtrack.

Like chat templates, these are programs from strangers. The parent process kills this one after a
time limit, and this one limits its own memory. The first line is a JSON string with the text of
tokenizer.json; each further line asks for the ids of a text.
"""

import json
import sys
from typing import Any

import tokenizers

from llama_cpu.system.process import limit_memory, limit_time

_MEMORY_LIMIT = 2 << 30  # bytes
_SECONDS = 20  # after this time the process ends itself, in case the parent was killed


def main() -> None:
    """Answer requests from standard input until it ends."""
    limit_memory(_MEMORY_LIMIT)
    print("ready", flush=True)
    tokenizer: tokenizers.Tokenizer | None = None
    for line in sys.stdin:
        limit_time(_SECONDS)
        try:
            request = json.loads(line)
            if tokenizer is None:
                tokenizer = tokenizers.Tokenizer.from_str(request)
                reply: dict[str, Any] = {}
            else:
                reply = {"ids": _ids(tokenizer, request)}
        except BaseException as error:  # the library raises BaseException on Rust panics
            reply = {"error": str(error)[:200]}
        limit_time(0)
        print(json.dumps(reply), flush=True)


def _ids(tokenizer: tokenizers.Tokenizer, request: dict[str, Any]) -> list[int]:
    tokenizer.encode_special_tokens = request["plain"]
    ids: list[int] = tokenizer.encode(request["text"], add_special_tokens=request["framed"]).ids
    return ids


if __name__ == "__main__":
    main()
