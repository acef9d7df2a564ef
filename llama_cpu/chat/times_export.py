"""Exports the times of a conversation: as CSV, one row per token, or as JSON.

CSV: the phase is "prefill" for a prompt that was computed, "first" for the token sampled from its
logits, and "decode" for every other token. Times are in seconds; tokens count from 1 per answer:

    answer,model,run,phase,tokens,reused,token,token_id,seconds

JSON, one object, version 1; "runs" as in a conversation's export (history/transfer.py), memory in
bytes, and null for unknown values:

    {"format": "llama_cpu times", "version": 1, "model": name, "precision": name, "threads": number,
     "processor": name, "memory": {...}, "totals": {...},
     "answers": [{"model": name, "runs": [...], "token_ids": [...], "token_seconds": [...]}, ...]}
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llama_cpu.chat.token_times import AnswerTimes, totals
from llama_cpu.system.text import printable

FORMAT, VERSION = "llama_cpu times", 1
COLUMNS = ["answer", "model", "run", "phase", "tokens", "reused", "token", "token_id", "seconds"]


def times_as_csv(answers: Sequence[AnswerTimes]) -> str:
    """Export as CSV; see the module's docstring."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, answer in enumerate(answers, start=1):
        writer.writerows(_rows(number, answer))
    return text.getvalue()


def _rows(number: int, answer: AnswerTimes) -> Iterator[list[object]]:
    # A spreadsheet would run a name that begins like a formula.
    model = re.sub(r"^(?=[=+\-@\t])", "'", printable(answer.model).replace("\n", " "))
    place = 0
    for count, (run, times) in enumerate(answer.parts, start=1):
        if run and run.computed:
            figures = [run.computed, run.reused, "", "", _shortened(run.seconds)]
            yield [number, model, count, "prefill", *figures]
        for first, seconds in enumerate(times):
            # The id of an end token is not stored.
            id = str(answer.token_ids[place]) if place < len(answer.token_ids) else ""
            place += 1
            phase = "decode" if first else "first"
            yield [number, model, count, phase, 1, "", place, id, _shortened(seconds)]


def times_as_json(answers: Sequence[AnswerTimes], about: Mapping[str, Any]) -> str:
    """Export as JSON. ``about``: model, precision, threads, processor, memory."""
    sums = totals(answers)
    rates = {
        "cache_hits": sums.cache_hits,
        "prefill_rate": sums.prefill_rate,
        "decode_rate": sums.decode_rate,
    }
    values = {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "totals": {**asdict(sums), **rates},
    }
    head = json.dumps(values, ensure_ascii=False, indent=1).removesuffix("\n}")
    lines = [json.dumps(_as_values(each), ensure_ascii=False) for each in answers]
    text = f'{head},\n "answers": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    # json escapes control characters below space; a terminal may also obey these.
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _as_values(answer: AnswerTimes) -> dict[str, Any]:
    return {
        "model": answer.model,
        "runs": [asdict(run) for run in answer.runs],
        "token_ids": list(answer.token_ids),
        "token_seconds": [_shortened(seconds) for seconds in answer.token_seconds],
    }


def _shortened(seconds: float) -> float | None:
    """Nine significant digits distinguish all float32 values."""
    return float(f"{seconds:.9g}") if math.isfinite(seconds) else None
