"""What a conversation computes, keeps and drops."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import NAMED_TEMPLATES
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Finished, Prefill, StopReason, Token, TurnsDropped
from llama_cpu.generation.generate import Limits
from llama_cpu.generation.sampling import Sampler, Sampling
from llama_cpu.history.rows import State
from llama_cpu.loading.load import LoadedModel
from llama_cpu.weights.linear import PREFILL_CHUNK
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.conversations import PLAIN, prefill_of, turn
from tests.support.engine import GREEDY, generator_of, greedy, greedy_events, load_tiny


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    config = tiny_config()
    return load_tiny(write_meta(tmp_path, config, random_weights(config)), max_seq_len=256)


@pytest.fixture
def session(loaded: LoadedModel):
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=12)
    yield session
    session.close()


def test_cache_is_kept_between_turns(session: ChatSession) -> None:
    turn(session, "first")
    cached = list(session.loaded.cache.token_ids)
    prefill = prefill_of(turn(session, "second"))
    assert prefill.reused == len(cached)
    # The last id of the answer was never fed to the model, so it is computed with the new text.
    assert prefill.total == 1 + len(";u:second;a:")
    assert session.loaded.cache.token_ids[: len(cached)] == cached


def test_fresh_and_kept_cache_give_the_same_answers(loaded: LoadedModel) -> None:
    kept = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=12)
    turn(kept, "first")
    turn(kept, "second")
    expected = kept.messages[-1].token_ids
    anew = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=12, conversation=kept.conversation)
    assert anew.conversation.set_aside_answer()
    loaded.cache.reuse([])
    assert prefill_of(list(anew.answer(Flag()))).reused == 0
    assert anew.messages[-1].token_ids == expected
    kept.close()
    anew.close()


def test_regenerate_reuses_the_whole_prompt(session: ChatSession) -> None:
    assert not session.conversation.set_aside_answer()
    turn(session, "question")
    before = session.messages[-1].token_ids
    assert session.conversation.set_aside_answer()
    prefill = prefill_of(list(session.answer(Flag())))
    assert prefill.total == 1  # the last token's logits are needed
    assert session.messages[-1].token_ids == before


def test_edited_last_message_reuses_what_is_the_same(session: ChatSession) -> None:
    turn(session, "tell me about cats")
    session.conversation.add_user("tell me about dogs", place=0)
    prefill = prefill_of(list(session.answer(Flag())))
    assert prefill.reused == len("u:tell me about ")


def test_generated_ids_are_never_encoded_again(session: ChatSession) -> None:
    turn(session, "x")
    # Ids that no text gives: a random model also writes special and invalid bytes.
    session.conversation.history.save_answer(session.conversation.line[-1].id, "", [300, 301, 302])
    session.conversation.reload()
    turn(session, "y")
    assert session.loaded.cache.token_ids[6:9] == [300, 301, 302]


def test_oldest_turns_fall_away_but_not_the_system_prompt(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=12, system="SYSTEM")
    dropped = 0
    for number in range(12):
        events = turn(session, f"message number {number} " + "x" * 20)
        dropped += sum(event.count for event in events if isinstance(event, TurnsDropped))
    session.close()
    assert dropped > 0
    context = loaded.tokenizer.decode(loaded.cache.token_ids)
    assert context.startswith("s:SYSTEM;")
    assert "message number 0 " not in context
    assert "message number 11 " in context
    assert len(session.messages) == 1 + 2 * 12  # nothing is lost but for the model


def test_too_long_message_is_refused_and_nothing_is_dropped(session: ChatSession) -> None:
    turn(session, "first")
    session.add_user("y" * 300)
    with pytest.raises(UserError, match="context holds 256"):
        list(session.answer(Flag()))
    assert session.conversation.take_back() == "y" * 300
    events = turn(session, "second")
    assert not any(isinstance(event, TurnsDropped) for event in events)
    assert bytes(session.loaded.cache.token_ids[:10]) == b"u:first;a:"


def test_messages_taken_back_until_a_dropped_one_is_the_last(session: ChatSession) -> None:
    for number in range(8):
        turn(session, f"message {number} " + "x" * 40)
    for _ in range(7):
        session.conversation.delete_last_turn()
    prefill = prefill_of(list(session.answer(Flag())))
    assert prefill.reused + prefill.total > len("u:message 0 ")


def test_answers_of_one_seed_differ_from_each_other(loaded: LoadedModel) -> None:
    """Else Ctrl+R would be of no use with --seed."""

    def two_answers() -> list[list[int]]:
        sampling = Sampling(temperature=5.0, seed=3)
        session = ChatSession(loaded, PLAIN, sampling, max_gen_len=12)
        turn(session, "question")
        first = session.messages[-1].token_ids
        session.conversation.set_aside_answer()
        list(session.answer(Flag()))
        session.close()
        return [first, session.messages[-1].token_ids]

    first, second = two_answers()
    assert first != second
    assert two_answers() == [first, second]


def test_stop_keeps_what_was_written(session: ChatSession) -> None:
    session.add_user("go on")
    stop = Flag()
    tokens = 0
    for event in session.answer(stop):
        if isinstance(event, Token):
            tokens += 1
            if tokens == 5:
                stop.set()
    assert isinstance(event, Finished)
    assert event.reason is StopReason.STOPPED
    assert tokens == 5
    assert len(session.messages[-1].token_ids) == 5


def test_a_stopped_answer_goes_on_as_if_it_had_not_been_stopped(session: ChatSession) -> None:
    session.add_user("go on")
    whole = [event.id for event in session.answer(Flag()) if isinstance(event, Token)]
    session.conversation.set_aside_answer()
    stop = Flag()
    for event in session.answer(stop):
        if isinstance(event, Token):
            stop.set()
    stopped = session.conversation.line[-1]
    assert stopped.state is State.STOPPED and len(stopped.token_ids) == 1
    text = "".join(
        event.text
        for event in session.continue_answer(Flag())
        if isinstance(event, Token | Finished)
    )
    answer = session.conversation.line[-1]
    assert list(answer.token_ids)[:12] == whole and len(answer.token_ids) == 13
    assert answer.id == stopped.id and answer.text == stopped.text + text
    assert len(answer.token_seconds) == len(answer.token_ids)
    assert len(session.conversation.line) == 2


def test_an_answer_in_a_full_context_cannot_go_on(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=1000)
    session.add_user("x" * 230)
    *_, finished = session.answer(Flag())
    assert isinstance(finished, Finished) and finished.reason is StopReason.CONTEXT
    with pytest.raises(UserError, match="context is full, so that this answer cannot go on"):
        list(session.continue_answer(Flag()))
    session.close()


def test_an_answer_of_another_model_is_told_as_text(session: ChatSession) -> None:
    turn(session, "x")
    session.conversation.history.save_answer(session.conversation.line[-1].id, "a</s>b", [300, 301])
    session.conversation.reload()
    session.conversation.model = "the one that is loaded now"
    turn(session, "y")
    assert bytes(session.loaded.cache.token_ids[:17]) == b"u:x;a:a</s>b;u:y;"


@pytest.mark.parametrize("ids", [[1 << 30], [ord("z")]])
def test_ids_that_do_not_stand_for_the_text_are_not_used(
    session: ChatSession, ids: list[int]
) -> None:
    """Another model of the same name, or a file that was imported."""
    turn(session, "x")
    session.conversation.history.save_answer(session.conversation.line[-1].id, "Hello", ids)
    session.conversation.reload()
    turn(session, "y")
    assert bytes(session.loaded.cache.token_ids[:11]) == b"u:x;a:Hello"


def test_a_long_conversation_is_opened_where_only_its_end_fits(
    session: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = session.conversation.history
    conversation_id, parent = history.create().id, None
    for number in range(250):
        parent = history.add_message(conversation_id, parent, "user", f"question {number}").id
        answer = history.begin_answer(conversation_id, parent, session.model_name)
        text = f"answer {number}"
        history.save_answer(answer.id, text, list(text.encode()), state=State.COMPLETE)
        parent = answer.id
    session.conversation.open(conversation_id)
    rendered = []
    render = session._settings.renderer.render

    def noting(conversations: Sequence[dict[str, Any]]) -> list[str]:
        rendered.append(1)
        return render(conversations)

    monkeypatch.setattr(session._settings.renderer, "render", noting)
    dropped, *events = turn(session, "and now?")
    assert isinstance(dropped, TurnsDropped) and dropped.count > 480
    context = session.loaded.tokenizer.decode(session.loaded.cache.token_ids)
    assert context.startswith(f"u:question {dropped.count // 2};a:answer {dropped.count // 2};")
    assert prefill_of(events).total > 256 - 64 - 40
    assert len(rendered) < 10
    again = [event for event in turn(session, "?") if isinstance(event, TurnsDropped)]
    assert sum(event.count for event in again) < 10  # the others were told of


def test_stop_before_anything_is_read(session: ChatSession) -> None:
    stop = Flag()
    stop.set()
    session.add_user("hello")
    *_, last = session.answer(stop)
    assert isinstance(last, Finished)
    assert last.reason is StopReason.STOPPED
    assert session.messages[-1].role == "user"
    assert len(session.loaded.cache) == 0
    # What was not answered goes in front of the next message.
    turn(session, "again")
    assert session.messages[-2].text == "hello\n\nagain"


def test_stop_in_the_middle_of_prefill(tmp_path: Path) -> None:
    """The chunks that were read stay in the cache, and only they."""
    chunk = PREFILL_CHUNK
    config = tiny_config(context_length=4 * chunk)
    folder = write_meta(tmp_path, config, random_weights(config))
    loaded = load_tiny(folder, max_seq_len=4 * chunk)
    prompt = [7 * index % 256 for index in range(3 * chunk)]
    limits = Limits(8, end_ids=frozenset())
    stop = Flag()
    events = []
    for event in generator_of(loaded).generate(prompt, Sampler(GREEDY), limits, stop):
        events.append(event)
        if isinstance(event, Prefill) and event.done > chunk:
            stop.set()
    *begun, last = events
    prefills = [event for event in begun if isinstance(event, Prefill)]
    assert prefills == begun
    half = chunk // config.n_layers
    assert [event.done for event in prefills] == [0, half, chunk, chunk + half]
    assert last == Finished(StopReason.STOPPED)
    assert loaded.cache.token_ids == prompt[:chunk]

    again = greedy_events(loaded, prompt, 8)
    assert prefill_of(again).reused == chunk
    assert prefill_of(again).done == prefill_of(again).total == 2 * chunk
    loaded.cache.reuse([])
    ids = [event.id for event in again if isinstance(event, Token)]
    assert ids == greedy(loaded, prompt, 8)


def test_completion_has_no_template_and_leaves_no_message(loaded: LoadedModel) -> None:
    expected = greedy(loaded, list(b"question"), 12)
    first = loaded.tokenizer.decode(expected)[0]
    stopping = replace(PLAIN, stop_strings=(first,))
    session = ChatSession(loaded, stopping, GREEDY, max_gen_len=12)
    events = list(session.complete("question", Flag()))
    assert [event.id for event in events if isinstance(event, Token)] == expected
    assert session.messages == []
    session.close()


def test_text_that_looks_like_a_special_token_is_text(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=2)
    turn(session, "a</s>b\ue000c")
    session.close()
    assert bytes(loaded.cache.token_ids[:12]) == b"u:a</s>bc;a:"


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_named_template_takes_turns(name: str, tmp_path: Path) -> None:
    config = tiny_config(context_length=2048)
    folder = write_meta(tmp_path, config, random_weights(config))
    loaded = load_tiny(folder, max_seq_len=2048)
    session = ChatSession(loaded, NAMED_TEMPLATES[name], GREEDY, max_gen_len=3, system="BE KIND")
    turn(session, "one")
    cached = len(loaded.cache)
    assert session.messages[-1].token_ids
    assert prefill_of(turn(session, "two")).reused == cached
    session.close()
    context = loaded.tokenizer.decode(loaded.cache.token_ids)
    assert context.index("BE KIND") < context.index("one") < context.index("two")


def test_an_edited_answer_is_read_as_its_text_and_continued(session: ChatSession) -> None:
    turn(session, "x")
    session.conversation.edit_answer(1, "Hello")
    list(session.continue_answer(Flag()))
    assert bytes(session.loaded.cache.token_ids[:11]) == b"u:x;a:Hello"
    answer = session.conversation.line[-1]
    assert bytes(list(answer.token_ids)[:5]) == b"Hello" and len(answer.token_ids) > 5
    assert not list(answer.token_seconds)  # not every token has a time
    cached = list(session.loaded.cache.token_ids)
    assert prefill_of(turn(session, "y")).reused == len(cached)


def test_what_follows_an_edited_answer_keeps_the_cache_before_it(session: ChatSession) -> None:
    turn(session, "x")
    session.conversation.edit_answer(1, "Hello")
    prefill = prefill_of(turn(session, "y"))
    assert prefill.reused == len("u:x;a:")
    assert bytes(session.loaded.cache.token_ids[:18]) == b"u:x;a:Hello;u:y;a:"
    parts = list(session.look(session.conversation.line[1], Flag()))
    tokens = [token for part in parts for token in part.tokens]
    assert [token.text for token in tokens] == list("Hello")
    assert all(token.seconds is None for token in tokens)
    assert not session.is_own(session.conversation.line[1])
