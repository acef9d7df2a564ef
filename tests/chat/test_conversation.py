"""A conversation and the disk: what is kept, and what happens where it cannot be."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from llama_cpu.chat import autosave as writing
from llama_cpu.chat.conversation import GONE, GONE_WHILE_ANSWERING, IN_MEMORY, Conversation
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.history.rows import Gone, Run, State
from llama_cpu.history.store import History
from tests.support.conversations import id_of, latest_of

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
def conversation(history: History) -> Conversation:
    return Conversation(history, "model", "Be kind.")


def events(text: str, reason: StopReason = StopReason.END) -> Iterator[Event]:
    for number, word in enumerate(text.split(" ")):
        yield Token(number, " " + word, 0.5)
    if reason is StopReason.END:
        yield Token(END, "", 0.5)
    yield Finished(reason)


def written(conversation: Conversation, source: Iterator[Event]) -> Generator[Event, None, None]:
    answer = conversation.autosave_answer(source, frozenset([END]), lambda ids, text: ids)
    assert isinstance(answer, Generator)
    return answer


def ask(
    conversation: Conversation, text: str, answer: str, reason: StopReason = StopReason.END
) -> None:
    conversation.add_user(text)
    assert len(list(written(conversation, events(answer, reason)))) > 1


def told(conversation: Conversation) -> list[str]:
    return [message.text for message in conversation.line]


def stored(history: History) -> list[str]:
    latest = history.latest()
    return [message.text for message in history.path(latest.id)] if latest else []


def refuse(monkeypatch: pytest.MonkeyPatch, history: History, *methods: str) -> None:
    """The disk is full."""

    def full(*arguments: object, **named: object) -> None:
        raise UserError(FULL)

    for method in methods:
        monkeypatch.setattr(history, method, full)


def test_a_conversation_is_made_with_the_first_message(
    conversation: Conversation, other: History
) -> None:
    assert other.latest() is None and conversation.stored_id is None
    conversation.add_user("one")
    latest = other.latest()
    assert latest and latest.id == conversation.stored_id and conversation.is_persistent
    assert (latest.title, latest.model, latest.settings) == ("one", "model", {"system": "Be kind."})
    assert stored(other) == ["one"]


def test_an_answer_is_saved_as_it_grows(
    conversation: Conversation, other: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SAVE_SECONDS", 0.01)
    conversation.add_user("one")
    source = written(conversation, events("two three four"))
    first, second = next(source), next(source)
    assert isinstance(first, Token) and isinstance(second, Token)
    assert [first.text, second.text] == ["two", " three"]
    while stored(other) != ["one", "two three"]:
        pass
    growing = other.path(id_of(conversation))[-1]
    assert growing.state is State.WRITING and list(growing.token_ids) == [0, 1]
    assert list(growing.token_seconds) == [0.5, 0.5]
    source.close()  # the app is left
    left = other.path(id_of(conversation))[-1]
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
def test_how_an_answer_ended(conversation: Conversation, reason: StopReason, state: State) -> None:
    ask(conversation, "one", "two", reason)
    assert conversation.line[-1].state is state
    assert list(conversation.line[-1].token_ids) == [0]


def test_nothing_is_stored_where_nothing_was_generated(
    conversation: Conversation, history: History
) -> None:
    conversation.add_user("one")
    list(written(conversation, iter([Finished(StopReason.STOPPED)])))
    assert told(conversation) == ["one"] == stored(history)


def test_another_answer_is_an_alternative(conversation: Conversation, history: History) -> None:
    ask(conversation, "one", "two")
    ask(conversation, "three", "four")
    first = conversation.line[-1].id
    assert conversation.set_aside_answer() and not conversation.set_aside_answer()
    list(written(conversation, events("five")))
    second = conversation.line[-1].id
    assert told(conversation) == ["one", "two", "three", "five"]
    assert conversation.alternatives(second) == (first, second)
    assert conversation.alternatives(conversation.line[0].id) == (conversation.line[0].id,)
    conversation.choose(first)
    assert told(conversation)[-1] == "four"
    conversation.set_aside_answer()
    conversation.reload()  # nothing was generated
    assert told(conversation)[-1] == "four" == stored(history)[-1]


def test_an_edited_message_is_a_branch(conversation: Conversation) -> None:
    ask(conversation, "one", "two")
    ask(conversation, "three", "four")
    conversation.add_user("One?", place=0)
    assert told(conversation) == ["One?"]
    first, second = conversation.alternatives(conversation.line[0].id)
    conversation.choose(first)
    assert told(conversation) == ["one", "two", "three", "four"]
    conversation.choose(second)
    assert conversation.take_back() == "One?"
    assert told(conversation) == ["one", "two", "three", "four"]


def test_the_last_turn_is_deleted_and_with_the_only_one_the_conversation(
    conversation: Conversation, history: History
) -> None:
    ask(conversation, "one", "two")
    ask(conversation, "three", "four")
    assert conversation.delete_last_turn()
    assert told(conversation) == ["one", "two"]
    assert conversation.delete_last_turn() and not conversation.delete_last_turn()
    assert conversation.stored is None and history.conversations() == []


def test_opened_with_its_system_prompt(conversation: Conversation, history: History) -> None:
    ask(conversation, "one", "two")
    again = Conversation(history, "model", "Be short.")
    assert again.system == "Be short."
    again.open(id_of(conversation))
    assert again.system == "Be kind." and told(again) == ["one", "two"]
    again.clear()
    assert again.system == "Be short." and told(again) == []


def test_another_model_goes_on(conversation: Conversation, history: History) -> None:
    ask(conversation, "one", "two")
    conversation.model = "other"
    ask(conversation, "three", "four")
    assert [message.model for message in conversation.line] == ["", "model", "", "other"]
    assert latest_of(history).model == "other"


def go_on(conversation: Conversation, source: Iterator[Event]) -> list[Event]:
    last = conversation.line[-1]
    tidy: Callable = lambda ids, text: ids  # noqa: E731
    ends = frozenset([END])
    return list(
        conversation.autosave_continuation(source, ends, tidy, " " + last.text, last.token_ids)
    )


def test_a_cut_answer_is_continued(conversation: Conversation, other: History, path: Path) -> None:
    ask(conversation, "one", "two", StopReason.STOPPED)
    first = conversation.line[-1]
    *_, finished = go_on(conversation, events("three"))
    assert isinstance(finished, Finished)
    answer = other.path(id_of(conversation))[-1]
    assert (answer.id, answer.text, answer.state) == (first.id, "two three", State.COMPLETE)
    assert list(answer.token_ids) == [0, 0] and len(answer.token_seconds) == 3


def test_how_each_run_went_is_stored(conversation: Conversation, other: History) -> None:
    conversation.add_user("one")
    first: list[Event] = [Prefill(3, 0, 9, 0.0), Prefill(3, 9, 9, 0.5), Token(1, "two", 0.1)]
    list(
        written(conversation, iter([*first, Token(2, " three", 0.1), Finished(StopReason.STOPPED)]))
    )
    assert other.path(id_of(conversation))[-1].runs == (Run(0, 3, 9, 0.5, ended="stopped"),)
    second: list[Event] = [
        Prefill(13, 1, 1, 0.25),
        Token(3, " four", 0.1),
        Token(4, "", 0.1, drafted=True),
    ]
    go_on(conversation, iter([*second, Finished(StopReason.STOPPED)]))
    assert conversation.line[-1].runs == (
        Run(0, 3, 9, 0.5, ended="stopped"),
        Run(2, 13, 1, 0.25, 1, ended="stopped"),
    )
    before = conversation.line[-1]
    go_on(conversation, iter([Prefill(14, 1, 1, 0.25), Finished(StopReason.STOPPED)]))
    conversation.reload()
    assert conversation.line[-1] == before


def test_a_cut_answer_is_as_it_was_where_nothing_is_added(conversation: Conversation) -> None:
    ask(conversation, "one", "two", StopReason.STOPPED)
    before = conversation.line[-1]
    go_on(conversation, iter([Finished(StopReason.STOPPED)]))
    conversation.reload()
    assert conversation.line[-1] == before


def test_an_answer_that_another_window_writes_is_not_continued(
    conversation: Conversation, other: History
) -> None:
    ask(conversation, "one", "two", StopReason.STOPPED)
    other.continue_answer(conversation.line[-1].id)
    with pytest.raises(UserError, match="another window"):
        go_on(conversation, events("three"))
    assert conversation.take_trouble() == ""


# Another window deletes


def test_deleted_before_a_message_is_sent(conversation: Conversation, other: History) -> None:
    ask(conversation, "one", "two")
    other.delete(id_of(conversation))
    with pytest.raises(Gone) as error:
        conversation.add_user("three")
    assert str(error.value) == GONE and conversation.take_trouble() == ""
    assert told(conversation) == ["one", "two"] and not conversation.is_persistent
    ask(conversation, "three", "four")
    assert conversation.is_persistent
    assert stored(other) == ["one", "two", "three", "four"] == told(conversation)


def test_only_the_last_turn_was_deleted(conversation: Conversation, other: History) -> None:
    ask(conversation, "one", "two")
    ask(conversation, "three", "four")
    other.delete_message(conversation.line[2].id)
    with pytest.raises(Gone):
        conversation.add_user("five")
    conversation.add_user("five")
    assert stored(other) == ["one", "two", "three", "four", "five"]
    assert len(other.conversations()) == 2


def test_deleted_while_an_answer_is_written(conversation: Conversation, other: History) -> None:
    conversation.add_user("one")
    source = written(conversation, events("two three"))
    next(source)
    other.delete(id_of(conversation))
    assert len(list(source)) == 3
    assert conversation.take_trouble() == GONE_WHILE_ANSWERING
    assert (
        told(conversation) == ["one", "two three"] and conversation.line[-1].state is State.COMPLETE
    )
    assert other.latest() is None
    ask(conversation, "four", "five")
    assert stored(other) == ["one", "two three", "four", "five"]


def test_deleted_while_it_is_opened(conversation: Conversation, other: History) -> None:
    ask(conversation, "one", "two")
    gone = other.create().id
    other.delete(gone)
    with pytest.raises(Gone):
        conversation.open(gone)
    assert told(conversation) == ["one", "two"]


# Another window writes


def test_both_write_at_once(conversation: Conversation, other: History) -> None:
    ask(conversation, "one", "two")
    conversation.add_user("three")
    source = written(conversation, events("four"))
    next(source)
    theirs = other.add_message(id_of(conversation), conversation.line[1].id, "user", "drei")
    other.add_message(id_of(conversation), theirs.id, "assistant", "vier")
    list(source)
    assert told(conversation) == ["one", "two", "three", "four"]
    assert conversation.alternatives(conversation.line[2].id)[1:] == (theirs.id,)
    assert conversation.news() is None  # this branch goes on, whatever the other window shows
    other.choose(theirs.id)
    conversation.set_aside_answer()
    conversation.reload()
    assert told(conversation) == ["one", "two", "three", "four"]
    conversation.delete_last_turn()
    assert told(conversation) == ["one", "two", "drei", "vier"]


def test_news_change_nothing_until_they_are_taken_over(
    conversation: Conversation, other: History
) -> None:
    assert conversation.news() is None
    ask(conversation, "one", "two")
    assert conversation.news() is None
    other.add_message(id_of(conversation), conversation.line[-1].id, "user", "three")
    other.rename(id_of(conversation), "Numbers")
    news = conversation.news()
    assert news and told(conversation) == ["one", "two"]
    conversation.take_over(news)
    assert told(conversation) == ["one", "two", "three"] and conversation.news() is None
    assert conversation.stored and conversation.stored.title == "Numbers"


def test_an_answer_whose_window_has_died_is_cut(conversation: Conversation, path: Path) -> None:
    ask(conversation, "one", "two")
    dying = History(path)
    dying.continue_answer(conversation.line[-1].id)
    news = conversation.news()
    assert news
    conversation.take_over(news)
    assert conversation.is_written_elsewhere
    dying.close()
    news = conversation.news()
    assert news and news.line[-1].state is State.CUT


def test_a_conversation_deleted_elsewhere_is_not_saved_by_leaving_it(
    conversation: Conversation, other: History
) -> None:
    ask(conversation, "one", "two")
    other.delete(id_of(conversation))
    news = conversation.news()
    assert news
    conversation.take_over(news)
    assert told(conversation) == ["one", "two"] and conversation.stored_id is None
    assert conversation.news() is None
    conversation.clear()
    conversation.add_user("three")
    assert stored(other) == ["three"] and len(other.conversations()) == 1


# The disk is full


def test_messages_go_on_in_memory(
    conversation: Conversation, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(conversation, "one", "two")
    with monkeypatch.context() as full:
        refuse(full, history, "add_message", "add_copy")
        ask(conversation, "three", "four")
        assert (
            conversation.take_trouble() == f"{FULL} {IN_MEMORY}"
            and conversation.take_trouble() == ""
        )
        ask(conversation, "five", "six")
        assert conversation.take_trouble() == ""
        assert told(conversation) == ["one", "two", "three", "four", "five", "six"]
        assert not conversation.is_persistent
    assert stored(history) == ["one", "two"]
    conversation.add_user("seven")
    assert conversation.is_persistent
    assert stored(history) == ["one", "two", "three", "four", "five", "six", "seven"]


def test_the_first_message_goes_on_in_memory(
    conversation: Conversation, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        refuse(full, history, "add_message", "add_copy")
        ask(conversation, "one", "two")
    assert told(conversation) == ["one", "two"] and history.conversations() == []
    conversation.close()
    assert stored(history) == ["one", "two"]


def test_an_answer_goes_on_in_memory(
    conversation: Conversation, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation.add_user("one")
    with monkeypatch.context() as full:
        refuse(full, history, "save_answer")
        assert len(list(written(conversation, events("two three")))) == 4
    assert conversation.take_trouble() == f"{FULL} {IN_MEMORY}"
    assert told(conversation) == ["one", "two three"]
    ask(conversation, "four", "five")
    assert stored(history) == ["one", "two three", "four", "five"]


def test_an_answer_is_continued_in_memory(
    conversation: Conversation, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(conversation, "one", "two", StopReason.STOPPED)
    with monkeypatch.context() as full:
        refuse(full, history, "continue_answer")
        go_on(conversation, events("three"))
    assert conversation.take_trouble() and told(conversation) == ["one", "two three"]
    conversation.clear()
    assert stored(history) == ["one", "two three"]


def test_a_save_that_failed_is_made_up_for(
    conversation: Conversation, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program had the database for a while."""
    monkeypatch.setattr(writing, "SAVE_SECONDS", 0.01)
    conversation.add_user("one")
    source = written(conversation, events("two three"))
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
    assert conversation.take_trouble() == "" and stored(history) == ["one", "two three"]
