"""The times of a conversation: gathered, summed up, and exported."""

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from llama_cpu.chat.times_export import COLUMNS, times_as_csv, times_as_json
from llama_cpu.chat.token_times import AnswerTimes, answer_times, totals
from llama_cpu.generation.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.generation.timings import Timings
from llama_cpu.history.rows import Run, State, StoredMessage

# Two runs: the second token of the second one was proposed.
CONTINUED = AnswerTimes(
    "Demo", (Run(0, 3, 10, 0.5), Run(2, 15, 1, 0.25, 1)), (7, 8, 9), (0.001, 0.02, 0.002, 0.04)
)
OLD = AnswerTimes("Old", (), (5, 6), (0.001, 0.06))


def message(role: str, answer: AnswerTimes | None = None) -> StoredMessage:
    answer = answer or AnswerTimes("", (), (), ())
    figures = (answer.token_ids, answer.token_seconds, (), answer.runs)
    return StoredMessage(1, 1, None, role, "text", State.COMPLETE, answer.model, 0.0, *figures)


def test_the_first_token_of_a_run_belongs_to_the_prompt() -> None:
    assert CONTINUED.decode_seconds == [0.02, 0.04]
    assert CONTINUED.prefill_seconds == [0.05, 0.25]
    assert OLD.decode_seconds == [0.06] and OLD.prefill_seconds == []


def test_the_figures_of_a_conversation() -> None:
    figures = totals([CONTINUED, OLD])
    assert (figures.prompt_tokens, figures.reused_tokens) == (11, 18)
    assert figures.cache_hits == pytest.approx(18 / 29)
    assert figures.prefill_rate == pytest.approx(11 / 0.75)
    assert figures.decode_tokens == 3 and figures.decode_rate == pytest.approx(3 / 0.12)
    assert figures.tokens_per_pass == pytest.approx(4 / 3)  # of those of which it is known
    assert (figures.median, figures.percentile_95, figures.slowest) == (0.04, 0.06, 0.06)
    assert figures.without_runs == 1


def test_without_any_answer() -> None:
    figures = totals([])
    assert (figures.cache_hits, figures.tokens_per_pass, figures.median) == (None, None, None)
    assert figures.prefill_rate == figures.decode_rate == 0.0


def test_figures_from_a_stranger_do_no_harm() -> None:
    runs = (Run(900, 0, 1 << 31, 1e9), Run(1, 0, 0, 5.0), Run(0, 1 << 31, 2, 0.0, 1 << 31))
    answer = AnswerTimes("m", runs, (), (math.nan, -1.0, 0.5, math.nan))
    assert answer.decode_seconds == [0.5]
    figures = totals([answer])
    assert figures.tokens_per_pass is None and figures.decode_tokens == 1
    assert len(times_as_csv([answer]).splitlines()) < 10
    json.loads(times_as_json([answer], {}), parse_constant=pytest.fail)


def observed(*events: Prefill | Token) -> Timings:
    timings = Timings()
    for event in events:
        timings.observe(event)
    return timings


def test_the_answer_that_is_being_written() -> None:
    now = observed(Prefill(4, 6, 6, 0.3), Token(1, "a", 0.1), Token(2, "b", 0.2, drafted=True))
    line = [message("user"), message("assistant", OLD), message("user")]
    first, second = answer_times(line, now, "Demo")
    assert first == OLD
    assert second == AnswerTimes("Demo", [Run(0, 4, 6, 0.3, 1)], (), [0.1, 0.2])
    assert answer_times(line) == [OLD]
    assert answer_times([]) == []


def test_an_answer_that_is_being_continued() -> None:
    """The time of its end token, if there is one, is no longer part of it."""
    stopped = AnswerTimes("Demo", (Run(0, 0, 9, 0.1),), (1,), (0.001, 0.02))
    now = observed(Prefill(10, 1, 1, 0.2), Token(2, "b", 0.003))
    (answer,) = answer_times([message("user"), message("assistant", stopped)], now)
    assert answer.runs == [*stopped.runs, Run(1, 10, 1, 0.2)]
    assert list(answer.token_seconds) == [0.001, 0.003]


def test_what_is_seen_while_it_is_written_is_what_is_stored() -> None:
    from llama_cpu.chat.conversation import Conversation
    from llama_cpu.history.store import History

    events: list[Event] = [
        Prefill(4, 6, 6, 0.25),
        Token(1, "a", 0.5),
        Token(2, "b", 0.125, drafted=True),
    ]
    conversation, timings = Conversation(History(None), "Demo"), Timings()
    conversation.add_user("one")
    events.append(Finished(StopReason.LENGTH))
    for event in conversation.autosave_answer(iter(events), frozenset(), lambda ids, text: ids):
        timings.observe(event)
        during = answer_times(conversation.line, timings, "Demo")
    (before,), (after,) = during, answer_times(conversation.line)
    assert list(before.token_seconds) == list(after.token_seconds)
    (run,) = after.runs
    assert list(before.runs) == [replace(run, ended="")] and run.ended == "length"


def test_a_branch_has_times_from_before_its_run() -> None:
    branch = AnswerTimes("Demo", (Run(2, 9, 1, 0.25),), (7, 8, 9), (0.001, 0.02, 0.002, 0.04))
    assert branch.decode_seconds == [0.02, 0.04]
    read = [row for row in rows([branch]) if row["token"]]
    assert [(row["token"], row["token_id"], row["seconds"]) for row in read] == [
        ("1", "7", "0.001"), ("2", "8", "0.02"), ("3", "9", "0.002"), ("4", "", "0.04")
    ]  # fmt: skip
    assert [row["phase"] for row in read] == ["first", "decode"] * 2
    assert totals([branch]).tokens_per_pass == 1


def test_a_branch_without_times_has_none_while_it_is_written_either() -> None:
    """As chat/writing.py stores it: a figure for every token or none at all."""
    branch = AnswerTimes("Demo", (), (7, 8), ())
    now = observed(Prefill(9, 1, 1, 0.25), Token(1, "a", 0.5))
    (answer,) = answer_times([message("user"), message("assistant", branch)], now)
    assert list(answer.token_seconds) == [] and answer.runs == [Run(0, 9, 1, 0.25)]


# Export


def rows(answers: list[AnswerTimes]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(times_as_csv(answers))))


def test_csv_has_a_row_for_every_token() -> None:
    read = rows([CONTINUED, OLD])
    assert [row["phase"] for row in read] == (
        ["prefill", "first", "decode", "prefill", "first", "decode", "first", "decode"]
    )
    assert list(read[0]) == COLUMNS
    first = {"answer": "1", "model": "Demo", "run": "1", "phase": "prefill"}
    assert read[0] == {
        **first, "tokens": "10", "reused": "3", "token": "", "token_id": "", "seconds": "0.5"
    }  # fmt: skip
    assert [row["token_id"] for row in read if row["token"]] == ["7", "8", "9", "", "5", "6"]
    assert [row["token"] for row in read if row["token"]] == ["1", "2", "3", "4", "1", "2"]
    assert [row["run"] for row in read] == ["1"] * 3 + ["2"] * 3 + ["1"] * 2
    seconds = [float(row["seconds"]) for row in read if row["phase"] == "decode"]
    assert seconds == [*CONTINUED.decode_seconds, *OLD.decode_seconds]


@pytest.mark.parametrize(
    ("model", "written"),
    [("=cmd()", "'=cmd()"), ('a,"b"\n\x1b[2J', 'a,"b" ␛[2J'), ("-1", "'-1"), ("7B", "7B")],
)
def test_a_models_name_is_data(model: str, written: str) -> None:
    answer = AnswerTimes(model, (), (1,), (0.5,))
    assert rows([answer])[0]["model"] == written
    text = times_as_json([answer], {"model": model + "\x9b"})
    assert not set(text) & {"\x1b", "\x9b"}
    assert json.loads(text)["answers"][0]["model"] == model


def test_json_has_everything() -> None:
    about: dict[str, Any] = {"precision": "int8", "threads": 2, "memory": {"resident": 5}}
    values = json.loads(times_as_json([CONTINUED, OLD], about), parse_constant=pytest.fail)
    assert (values["format"], values["version"]) == ("llama_cpu times", 1)
    assert {name: values[name] for name in about} == about
    assert values["totals"]["prompt_tokens"] == 11 and values["totals"]["median"] == 0.04
    assert values["totals"]["cache_hits"] == pytest.approx(18 / 29)
    first, second = values["answers"]
    assert first["token_seconds"] == list(CONTINUED.token_seconds)
    assert first["token_ids"] == [7, 8, 9] and second["runs"] == []
    assert Run(**first["runs"][1]) == CONTINUED.runs[1]
