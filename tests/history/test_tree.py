"""Conversations and their branches."""

import datetime
import threading
from dataclasses import replace

import pytest

from llama_cpu.errors import UserError
from llama_cpu.history.rows import (
    Gone,
    State,
    StoredConversation,
    StoredMessage,
    by_day,
    first_words,
)
from llama_cpu.history.store import History


def texts(messages: list[StoredMessage]) -> list[str]:
    return [message.text for message in messages]


def answer(history: History, conversation: int, parent: int, text: str) -> StoredMessage:
    begun = history.begin_answer(conversation, parent, "model")
    history.save_answer(begun.id, text, [1, 2], state=State.COMPLETE)
    return history.message(begun.id)


def test_a_conversation_is_what_was_said(history: History) -> None:
    new = history.create("SmolLM", {"temperature": 0.5})
    system = history.add_message(new.id, None, "system", "Be kind.")
    user = history.add_message(new.id, system.id, "user", "What is\nthe capital\tof France?")
    begun = history.begin_answer(new.id, user.id, "SmolLM")
    assert (begun.state, begun.text, list(begun.token_ids)) == (State.WRITING, "", [])
    history.save_answer(begun.id, "Paris", [5], [0.25], [-0.5])
    assert history.message(begun.id).state is State.WRITING
    history.save_answer(
        begun.id, "Paris.", [5, 2**31 - 1], [0.25, 0.5], [-0.5, -2.0], State.COMPLETE
    )

    path = history.path(new.id)
    assert texts(path) == ["Be kind.", "What is\nthe capital\tof France?", "Paris."]
    assert [message.role for message in path] == ["system", "user", "assistant"]
    assert [message.parent for message in path] == [None, system.id, user.id]
    assert path[-1].state is State.COMPLETE and path[-1].model == "SmolLM"
    assert list(path[-1].token_ids) == [5, 2**31 - 1]
    assert list(path[-1].token_seconds) == [0.25, 0.5]
    assert list(path[-1].token_logprobs) == [-0.5, -2.0]
    conversation = history.get(new.id)
    assert conversation.title == "What is the capital of France?"
    assert conversation.settings == {"temperature": 0.5} and conversation.model == "SmolLM"
    assert conversation.leaf == begun.id and conversation.message_count == 3
    assert conversation.updated >= conversation.created
    assert history.set_model(new.id, "Llama", {}).model == "Llama"


def test_all_of_it_is_there_after_closing(history: History) -> None:
    new = history.create()
    history.add_message(new.id, None, "user", "Grüße, 你好 🙂\0\x1b[31m")
    before = (history.get(new.id), history.path(new.id))
    history.close()
    history.close()  # a second time changes nothing
    with History(history._path) as again:
        assert (again.get(new.id), again.path(new.id)) == before


def test_alternatives_edits_and_branches(history: History) -> None:
    new = history.create().id
    question = history.add_message(new, None, "user", "Question")
    first = answer(history, new, question.id, "First")
    assert history.siblings(new) == {}
    second = answer(history, new, question.id, "Second")
    assert texts(history.path(new)) == ["Question", "Second"]
    both = (first.id, second.id)
    assert history.siblings(new) == {first.id: both, second.id: both}

    history.choose(first.id)
    follow_up = history.add_message(new, first.id, "user", "And?")
    answer(history, new, follow_up.id, "So.")
    assert texts(history.path(new)) == ["Question", "First", "And?", "So."]
    edited = history.add_message(new, None, "user", "Another question")
    assert texts(history.path(new)) == ["Another question"]
    assert history.siblings(new)[edited.id] == (question.id, edited.id)

    assert history.choose(second.id).leaf == second.id
    assert texts(history.path(new)) == ["Question", "Second"]
    history.choose(question.id)  # the newest that follows is on the other branch
    assert texts(history.path(new)) == ["Question", "First", "And?", "So."]
    assert texts(history.path(new, second.id)) == ["Question", "Second"]
    _, messages = history.tree(new)
    assert texts(messages) == ["Question", "First", "Second", "And?", "So.", "Another question"]
    assert history.get(new).title == "Question"


def test_deleting_messages(history: History) -> None:
    new = history.create().id
    question = history.add_message(new, None, "user", "Question")
    first, second = (answer(history, new, question.id, text) for text in ("First", "Second"))
    follow_up = history.add_message(new, second.id, "user", "And?")
    answer(history, new, follow_up.id, "So.")

    assert history.delete_message(follow_up.id).leaf == second.id
    assert texts(history.path(new)) == ["Question", "Second"]
    history.delete_message(first.id)  # on another branch
    assert texts(history.path(new)) == ["Question", "Second"]
    third = answer(history, new, question.id, "Third")
    assert history.delete_message(third.id).leaf == second.id  # the alternative that is left
    edited = history.add_message(new, None, "user", "Edited")
    assert history.delete_message(edited.id).leaf == second.id
    emptied = history.delete_message(question.id)
    assert (emptied.leaf, emptied.message_count) == (None, 0)
    assert history.path(new) == []
    history.add_message(new, None, "user", "Again")
    assert texts(history.path(new)) == ["Again"]


def test_a_long_line_can_be_deleted_and_copied(history: History) -> None:
    """SQLite gives up on cascades at a depth of 1000."""
    new = history.create().id
    message = history.add_message(new, None, "user", "Question")
    chain = [
        replace(message, id=number, parent=number - 1 or None, text=str(number))
        for number in range(1, 2501)
    ]
    long = history.add_copy(replace(history.get(new), leaf=2500), chain)
    assert texts(history.path(long.id)) == [str(number) for number in range(1, 2501)]
    copy = history.duplicate(long.id)
    second = history.path(copy.id)[1]
    assert history.delete_message(second.id).message_count == 1
    history.delete(long.id)
    assert {each.id for each in history.conversations()} == {new, copy.id}


def test_duplicate_has_all_branches_and_a_life_of_its_own(history: History) -> None:
    new = history.create("model", {"seed": 1}).id
    question = history.add_message(new, None, "user", "Question")
    first = answer(history, new, question.id, "First")
    history.begin_answer(new, question.id, "model")
    history.choose(first.id)
    copy = history.duplicate(new)
    assert copy.title == "Question (copy)" and copy.settings == {"seed": 1}
    assert texts(history.path(copy.id)) == ["Question", "First"]
    _, messages = history.tree(copy.id)
    assert [message.state for message in messages] == [State.COMPLETE, State.COMPLETE, State.CUT]
    assert list(messages[1].token_ids) == [1, 2]
    history.delete(new)
    assert texts(history.path(copy.id)) == ["Question", "First"]


def test_titles(history: History) -> None:
    new = history.create().id
    assert history.get(new).title == ""
    history.add_message(new, None, "user", " \n ")
    assert history.get(new).title == ""
    assert history.rename(new, "  My\nown\ttitle ").title == "My own title"
    history.add_message(new, None, "user", "Hello there")
    assert history.get(new).title == "My own title"
    assert len(history.rename(new, "x" * 5000).title) == 200
    history.delete_message(history.path(new)[0].id)
    history.add_message(new, None, "user", "Hello there")
    assert history.rename(new, " ").title == ""  # the oldest message is blank
    assert history.create(title="Given").title_is_own


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("a" * 60, "a" * 49 + "…"),
        ("word " * 20, "word " * 9 + "word…"),
        ("x" * 49 + " yz", "x" * 49 + "…"),
        ("x" * 50, "x" * 50),
    ],
)
def test_first_words(text: str, title: str) -> None:
    assert first_words(text) == title
    assert len(first_words(text)) <= 50


def test_the_list_is_by_day_and_the_last_used_first(history: History) -> None:
    ids = [history.create(title=str(number)).id for number in range(3)]
    assert history.latest() == history.get(ids[2])
    history.add_message(ids[0], None, "user", "Hello")
    assert [each.id for each in history.conversations()] == [ids[0], ids[2], ids[1]]
    noon = datetime.datetime(2026, 3, 4, 12).timestamp()
    rows = [
        replace(each, updated=noon - 86_400 * days)
        for each, days in zip(history.conversations(), (0, 0, 1), strict=True)
    ]
    days: list[tuple[datetime.date, list[StoredConversation]]] = by_day(rows)
    assert [(day.day, [each.id for each in group]) for day, group in days] == [
        (4, [ids[0], ids[2]]),
        (3, [ids[1]]),
    ]
    for id in ids:
        history.delete(id)
    assert history.latest() is None and history.conversations() == []


def test_pinned_ones_are_listed_first(history: History) -> None:
    ids = [history.create(title=str(number)).id for number in range(3)]
    assert history.pin(ids[0], True).pinned
    assert [each.id for each in history.conversations()] == [ids[0], ids[2], ids[1]]
    assert [each.id for each in history.conversations(2)] == [ids[0], ids[2]]
    latest = history.latest()
    assert latest and latest.id == ids[2]  # for --continue
    copy = history.duplicate(ids[0])
    assert not copy.pinned
    history.pin(ids[0], False)
    assert [each.id for each in history.conversations()] == [copy.id, ids[2], ids[1], ids[0]]
    history.delete(ids[0])
    with pytest.raises(Gone):
        history.pin(ids[0], True)


def test_the_list_needs_no_sorting(history: History) -> None:
    """Counting the messages of 10,000 conversations to list a hundred would take a second."""
    plan = history._connection.execute(
        "EXPLAIN QUERY PLAN SELECT id FROM conversations "
        "ORDER BY pinned DESC, updated DESC, id DESC LIMIT 5"
    ).fetchall()
    assert not [row for row in plan if "TEMP B-TREE" in str(dict(row))]


def test_what_is_gone_is_said_to_be(history: History) -> None:
    new = history.create().id
    user = history.add_message(new, None, "user", "Question")
    begun = history.begin_answer(new, user.id, "model")
    other = history.create().id
    history.delete(new)
    for call in (
        lambda: history.get(new),
        lambda: history.path(new),
        lambda: history.tree(new),
        lambda: history.rename(new, "title"),
        lambda: history.set_model(new, "model", {}),
        lambda: history.delete(new),
        lambda: history.duplicate(new),
        lambda: history.message(user.id),
        lambda: history.choose(user.id),
        lambda: history.delete_message(user.id),
        lambda: history.add_message(new, None, "user", "more"),
        lambda: history.begin_answer(new, user.id, "model"),
        lambda: history.save_answer(begun.id, "text", [1]),
        lambda: history.continue_answer(begun.id),
        lambda: history.add_message(other, user.id, "user", "a parent elsewhere"),
        lambda: history.path(other, user.id),
    ):
        with pytest.raises(Gone):
            call()
    assert history.conversations() == [history.get(other)]


def test_ids_are_never_used_again(history: History) -> None:
    """Another window may still have them."""
    old = history.create().id
    message = history.add_message(old, None, "user", "Question").id
    history.delete(old)
    new = history.create().id
    assert new > old
    assert history.add_message(new, None, "user", "Question").id > message


def test_an_answer_can_be_continued_once_it_has_ended(history: History) -> None:
    new = history.create().id
    user = history.add_message(new, None, "user", "Question")
    begun = history.begin_answer(new, user.id, "model")
    with pytest.raises(UserError, match="is being written"):
        history.continue_answer(begun.id)
    history.save_answer(begun.id, "Half", [1], state=State.STOPPED)
    resumed = history.continue_answer(begun.id)
    assert (resumed.state, resumed.text) == (State.WRITING, "Half")
    history.save_answer(begun.id, "Half and half", [1, 2], state=State.COMPLETE)
    assert texts(history.path(new)) == ["Question", "Half and half"]


def test_in_memory_it_is_the_same_but_for_the_end() -> None:
    with History(None) as history:
        new = history.create().id
        user = history.add_message(new, None, "user", "Question")
        history.begin_answer(new, user.id, "model")
        assert history.path(new)[-1].state is State.WRITING
        assert len(history.search("quest")) == 1
    with History(None) as history:
        assert history.conversations() == []


def test_threads_take_turns(history: History) -> None:
    failures: list[BaseException] = []

    def talk() -> None:
        try:
            new = history.create().id
            parent = None
            for number in range(20):
                parent = history.add_message(new, parent, "user", str(number)).id
                assert texts(history.path(new)) == [str(each) for each in range(number + 1)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [each.message_count for each in history.conversations()] == [20] * 4


def test_half_a_surrogate_pair_does_not_lose_the_message(history: History) -> None:
    new = history.create("\ud800", title="\udfff").id
    history.add_message(new, None, "user", "before \ud83d after")
    assert texts(history.path(new)) == ["before ? after"]
