"""A conversation and the disk: what is kept, and what happens where it cannot be."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cpu.chat import writing
from llama_cpu.chat.record import GONE, GONE_WHILE_ANSWERING, IN_MEMORY, Record
from llama_cpu.errors import UserError
from llama_cpu.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.history.rows import Gone, Run, State
from llama_cpu.history.store import History

END = 99
FULL = "the disk is full; make room."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    with History(path) as history:
        yield history


@pytest.fixture
def other(path: Path, history: History) -> Iterator[History]:
    """Another window."""
    with History(path) as other:
        yield other


@pytest.fixture
def record(history: History) -> Record:
    return Record(history, "model", "Be kind.")


def events(text: str, reason: StopReason = StopReason.END) -> Iterator[Event]:
    for number, word in enumerate(text.split(" ")):
        yield Token(number, " " + word, 0.5)
    if reason is StopReason.END:
        yield Token(END, "", 0.5)
    yield Finished(reason)


def written(record: Record, source: Iterator[Event]) -> Iterator[Event]:
    return record.written(source, frozenset([END]), lambda ids, text: ids)


def ask(record: Record, text: str, answer: str, reason: StopReason = StopReason.END) -> None:
    record.add_user(text)
    assert len(list(written(record, events(answer, reason)))) > 1


def told(record: Record) -> list[str]:
    return [message.text for message in record.line]


def stored(history: History) -> list[str]:
    latest = history.latest()
    return [message.text for message in history.path(latest.id)] if latest else []


def refuse(monkeypatch: pytest.MonkeyPatch, history: History, *methods: str) -> None:
    """The disk is full."""

    def full(*arguments: object, **named: object) -> None:
        raise UserError(FULL)

    for method in methods:
        monkeypatch.setattr(history, method, full)


def test_a_conversation_is_made_with_the_first_message(record: Record, other: History) -> None:
    assert other.latest() is None and record.kept_id is None
    record.add_user("one")
    latest = other.latest()
    assert latest and latest.id == record.kept_id and record.is_kept
    assert (latest.title, latest.model, latest.settings) == ("one", "model", {"system": "Be kind."})
    assert stored(other) == ["one"]


def test_an_answer_is_saved_as_it_grows(
    record: Record, other: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SAVE_SECONDS", 0.01)
    record.add_user("one")
    source = written(record, events("two three four"))
    assert [event.text for event in (next(source), next(source))] == ["two", " three"]
    while stored(other) != ["one", "two three"]:
        pass
    growing = other.path(record.kept_id)[-1]
    assert growing.state is State.WRITING and list(growing.token_ids) == [0, 1]
    assert list(growing.token_seconds) == [0.5, 0.5]
    source.close()  # the app is left
    left = other.path(record.kept_id)[-1]
    assert (left.text, left.state, left.model) == ("two three", State.STOPPED, "model")


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (StopReason.END, State.COMPLETE),
        (StopReason.STOP_STRING, State.COMPLETE),
        (StopReason.LENGTH, State.STOPPED),
        (StopReason.STOPPED, State.STOPPED),
    ],
)
def test_how_an_answer_ended(record: Record, reason: StopReason, state: State) -> None:
    ask(record, "one", "two", reason)
    assert record.line[-1].state is state
    assert list(record.line[-1].token_ids) == [0]


def test_nothing_is_stored_where_nothing_was_generated(record: Record, history: History) -> None:
    record.add_user("one")
    list(written(record, iter([Finished(StopReason.STOPPED)])))
    assert told(record) == ["one"] == stored(history)


def test_another_answer_is_an_alternative(record: Record, history: History) -> None:
    ask(record, "one", "two")
    ask(record, "three", "four")
    first = record.line[-1].id
    assert record.set_aside_answer() and not record.set_aside_answer()
    list(written(record, events("five")))
    second = record.line[-1].id
    assert told(record) == ["one", "two", "three", "five"]
    assert record.alternatives(second) == (first, second)
    assert record.alternatives(record.line[0].id) == (record.line[0].id,)
    record.choose(first)
    assert told(record)[-1] == "four"
    record.set_aside_answer()
    record.reload()  # nothing was generated
    assert told(record)[-1] == "four" == stored(history)[-1]


def test_an_edited_message_is_a_branch(record: Record) -> None:
    ask(record, "one", "two")
    ask(record, "three", "four")
    record.add_user("One?", place=0)
    assert told(record) == ["One?"]
    first, second = record.alternatives(record.line[0].id)
    record.choose(first)
    assert told(record) == ["one", "two", "three", "four"]
    record.choose(second)
    assert record.take_back() == "One?"
    assert told(record) == ["one", "two", "three", "four"]


def test_the_last_turn_is_deleted_and_with_the_only_one_the_conversation(
    record: Record, history: History
) -> None:
    ask(record, "one", "two")
    ask(record, "three", "four")
    assert record.delete_last_turn()
    assert told(record) == ["one", "two"]
    assert record.delete_last_turn() and not record.delete_last_turn()
    assert record.conversation is None and history.conversations() == []


def test_opened_with_its_system_prompt(record: Record, history: History) -> None:
    ask(record, "one", "two")
    again = Record(history, "model", "Be short.")
    assert again.system == "Be short."
    again.open(record.kept_id)
    assert again.system == "Be kind." and told(again) == ["one", "two"]
    again.clear()
    assert again.system == "Be short." and told(again) == []


def test_another_model_goes_on(record: Record, history: History) -> None:
    ask(record, "one", "two")
    record.model = "other"
    ask(record, "three", "four")
    assert [message.model for message in record.line] == ["", "model", "", "other"]
    assert history.latest().model == "other"


def go_on(record: Record, source: Iterator[Event]) -> list[Event]:
    last = record.line[-1]
    tidy: Callable = lambda ids, text: ids  # noqa: E731
    ends = frozenset([END])
    return list(record.written_on(source, ends, tidy, " " + last.text, last.token_ids))


def test_a_cut_answer_is_continued(record: Record, other: History, path: Path) -> None:
    ask(record, "one", "two", StopReason.STOPPED)
    first = record.line[-1]
    *_, finished = go_on(record, events("three"))
    assert isinstance(finished, Finished)
    answer = other.path(record.kept_id)[-1]
    assert (answer.id, answer.text, answer.state) == (first.id, "two three", State.COMPLETE)
    assert list(answer.token_ids) == [0, 0] and len(answer.token_seconds) == 3


def test_how_each_run_went_is_stored(record: Record, other: History) -> None:
    record.add_user("one")
    first = [Prefill(3, 0, 9, 0.0), Prefill(3, 9, 9, 0.5), Token(1, "two", 0.1)]
    list(written(record, iter([*first, Token(2, " three", 0.1), Finished(StopReason.STOPPED)])))
    assert other.path(record.kept_id)[-1].runs == (Run(0, 3, 9, 0.5),)
    second = [Prefill(13, 1, 1, 0.25), Token(3, " four", 0.1), Token(4, "", 0.1, drafted=True)]
    go_on(record, iter([*second, Finished(StopReason.STOPPED)]))
    assert record.line[-1].runs == (Run(0, 3, 9, 0.5), Run(2, 13, 1, 0.25, 1))
    before = record.line[-1]
    go_on(record, iter([Prefill(14, 1, 1, 0.25), Finished(StopReason.STOPPED)]))
    record.reload()
    assert record.line[-1] == before


def test_a_cut_answer_is_as_it_was_where_nothing_is_added(record: Record) -> None:
    ask(record, "one", "two", StopReason.STOPPED)
    before = record.line[-1]
    go_on(record, iter([Finished(StopReason.STOPPED)]))
    record.reload()
    assert record.line[-1] == before


def test_an_answer_that_another_window_writes_is_not_continued(
    record: Record, other: History
) -> None:
    ask(record, "one", "two", StopReason.STOPPED)
    other.continue_answer(record.line[-1].id)
    with pytest.raises(UserError, match="another window"):
        go_on(record, events("three"))
    assert record.take_trouble() == ""


# Another window deletes


def test_deleted_before_a_message_is_sent(record: Record, other: History) -> None:
    ask(record, "one", "two")
    other.delete(record.kept_id)
    with pytest.raises(Gone) as error:
        record.add_user("three")
    assert str(error.value) == GONE and record.take_trouble() == ""
    assert told(record) == ["one", "two"] and not record.is_kept
    ask(record, "three", "four")
    assert record.is_kept
    assert stored(other) == ["one", "two", "three", "four"] == told(record)


def test_only_the_last_turn_was_deleted(record: Record, other: History) -> None:
    ask(record, "one", "two")
    ask(record, "three", "four")
    other.delete_message(record.line[2].id)
    with pytest.raises(Gone):
        record.add_user("five")
    record.add_user("five")
    assert stored(other) == ["one", "two", "three", "four", "five"]
    assert len(other.conversations()) == 2


def test_deleted_while_an_answer_is_written(record: Record, other: History) -> None:
    record.add_user("one")
    source = written(record, events("two three"))
    next(source)
    other.delete(record.kept_id)
    assert len(list(source)) == 3
    assert record.take_trouble() == GONE_WHILE_ANSWERING
    assert told(record) == ["one", "two three"] and record.line[-1].state is State.COMPLETE
    assert other.latest() is None
    ask(record, "four", "five")
    assert stored(other) == ["one", "two three", "four", "five"]


def test_deleted_while_it_is_opened(record: Record, other: History) -> None:
    ask(record, "one", "two")
    gone = other.create().id
    other.delete(gone)
    with pytest.raises(Gone):
        record.open(gone)
    assert told(record) == ["one", "two"]


# The disk is full


def test_messages_go_on_in_memory(
    record: Record, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(record, "one", "two")
    with monkeypatch.context() as full:
        refuse(full, history, "add_message", "add_copy")
        ask(record, "three", "four")
        assert record.take_trouble() == f"{FULL} {IN_MEMORY}" and record.take_trouble() == ""
        ask(record, "five", "six")
        assert record.take_trouble() == ""
        assert told(record) == ["one", "two", "three", "four", "five", "six"]
        assert not record.is_kept
    assert stored(history) == ["one", "two"]
    record.add_user("seven")
    assert record.is_kept
    assert stored(history) == ["one", "two", "three", "four", "five", "six", "seven"]


def test_the_first_message_goes_on_in_memory(
    record: Record, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        refuse(full, history, "add_message", "add_copy")
        ask(record, "one", "two")
    assert told(record) == ["one", "two"] and history.conversations() == []
    record.close()
    assert stored(history) == ["one", "two"]


def test_an_answer_goes_on_in_memory(
    record: Record, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.add_user("one")
    with monkeypatch.context() as full:
        refuse(full, history, "save_answer")
        assert len(list(written(record, events("two three")))) == 4
    assert record.take_trouble() == f"{FULL} {IN_MEMORY}"
    assert told(record) == ["one", "two three"]
    ask(record, "four", "five")
    assert stored(history) == ["one", "two three", "four", "five"]


def test_an_answer_is_continued_in_memory(
    record: Record, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(record, "one", "two", StopReason.STOPPED)
    with monkeypatch.context() as full:
        refuse(full, history, "continue_answer")
        go_on(record, events("three"))
    assert record.take_trouble() and told(record) == ["one", "two three"]
    record.clear()
    assert stored(history) == ["one", "two three"]


def test_a_save_that_failed_is_made_up_for(
    record: Record, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program had the database for a while."""
    monkeypatch.setattr(writing, "SAVE_SECONDS", 0.01)
    record.add_user("one")
    source = written(record, events("two three"))
    failed: list[object] = []

    def fails(*arguments: object, **named: object) -> None:
        failed.append(arguments)
        raise UserError(FULL)

    with monkeypatch.context() as full:
        full.setattr(history, "save_answer", fails)
        next(source)
        while not failed:
            pass
    list(source)
    assert record.take_trouble() == "" and stored(history) == ["one", "two three"]
