"""The token lens: what the model thinks of each token of an answer, and branches from there."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

import pytest
import torch

from llama_cpu.chat import lens
from llama_cpu.chat.lens import LensPart, LensToken
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Prefill, Token
from llama_cpu.generation.sampling import Sampling
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.loading.load import LoadedModel
from llama_cpu.model.norms import RMSNorm
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import GREEDY, ByteTokenizer, load_tiny

PLAIN = ChatTemplate(
    "plain",
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}a:",
)


class LetterTokenizer(ByteTokenizer):
    """Bytes, all of which show: what a random model writes is text that stays as it is."""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([0x21 + token_id % 90]) if token_id < 256 else b""

    def encode(self, text: str, *, specials: bool, continued: bool = False) -> list[int]:
        return [ord(letter) - 0x21 for letter in text]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    config = tiny_config()
    path = write_meta(tmp_path, config, random_weights(config))
    return load_tiny(path, max_seq_len=256, tokenizer=LetterTokenizer())


@pytest.fixture
def session(loaded: LoadedModel) -> Iterator[ChatSession]:
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=12)
    yield session
    session.close()


def turn(session: ChatSession, text: str) -> StoredMessage:
    session.add_user(text)
    assert list(session.answer(Flag()))
    return session.conversation.line[-1]


def looked(session: ChatSession, answer: StoredMessage) -> list[LensToken]:
    return [token for part in session.look(answer, Flag()) for token in part.tokens]


def test_every_token_is_told(session: ChatSession) -> None:
    answer = turn(session, "hello")
    tokens = looked(session, answer)
    assert [token.id for token in tokens] == list(answer.token_ids)
    assert "".join(token.shown for token in tokens) == answer.text
    assert [token.seconds for token in tokens] == list(answer.token_seconds)[: len(tokens)]
    # It was greedy: no other token was better.
    assert {token.rank for token in tokens} == {1}
    for token in tokens:
        assert token.id not in [other.id for other in token.alternatives]
        assert len(token.alternatives) == lens.ALTERNATIVES
        logprobs = [token.logprob, *(other.logprob for other in token.alternatives)]
        assert logprobs == sorted(logprobs, reverse=True)


def test_figures_are_those_of_one_pass(session: ChatSession) -> None:
    """Against the whole text read at once, with an empty cache."""
    turn(session, "hello")
    answer = turn(session, "again")
    tokens = looked(session, answer)
    ids = [*session.loaded.cache.token_ids, answer.token_ids[-1]]
    session.loaded.cache.truncate(0)
    logits = session.loaded.model.forward(ids, session.loaded.cache, None, all_logits=True)
    expected = logits[-len(tokens) - 1 : -1].log_softmax(-1)
    told = torch.tensor([token.logprob for token in tokens])
    own = expected[range(len(tokens)), list(answer.token_ids)]
    torch.testing.assert_close(told, own, rtol=1e-4, atol=1e-4)
    for row, token in zip(expected, tokens, strict=True):
        best = row.topk(6).indices.tolist()
        assert [token.id, *(other.id for other in token.alternatives)] == best


def test_passes_of_any_length_tell_the_same(
    session: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = turn(session, "hello")
    at_once = looked(session, answer)
    monkeypatch.setattr(lens, "_LOGITS_BYTES", 0)  # then one by one
    session.loaded.model.prefill_chunk = 3
    session.loaded.cache.truncate(0)
    parts = list(session.look(answer, Flag()))
    one_by_one = [token for part in parts for token in part.tokens]
    assert [token.id for token in one_by_one] == [token.id for token in at_once]
    for one, other in zip(one_by_one, at_once, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert [part.done for part in parts] == sorted(part.done for part in parts)
    assert parts[-1].done == parts[-1].total == len(session.loaded.cache)


def test_an_earlier_answer_costs_the_next_turn_nothing(session: ChatSession) -> None:
    first = turn(session, "hello")
    turn(session, "again")
    cached = list(session.loaded.cache.token_ids)
    assert [token.id for token in looked(session, first)] == list(first.token_ids)
    assert session.loaded.cache.token_ids == cached
    # And what the cache holds is what it says: the next answer is that of a fresh cache.
    kept = turn(session, "more")
    session.conversation.set_aside_answer()
    session.loaded.cache.truncate(0)
    assert list(session.answer(Flag()))
    assert list(session.conversation.line[-1].token_ids) == list(kept.token_ids)


def test_an_alternative_of_before_is_looked_at(session: ChatSession) -> None:
    answer = turn(session, "hello")
    tokens = looked(session, answer)
    session.branch(answer, [tokens[0].alternatives[0].id], [])
    list(session.continue_answer(Flag()))
    branch = session.conversation.line[-1]
    session.conversation.choose(answer.id)
    assert looked(session, answer) == pytest.approx(tokens)
    # Nothing of the other branch is left in the cache.
    assert session.loaded.cache.token_ids[-len(tokens) + 1 :] == list(answer.token_ids)[:-1]
    assert branch.id in session.conversation.alternatives(answer.id)


@pytest.mark.parametrize("when", ["at once", "after the first part"])
def test_stopping(session: ChatSession, when: str) -> None:
    answer = turn(session, "hello")
    cached = list(session.loaded.cache.token_ids)
    stop = Flag()
    parts: list[LensPart] = []
    if when == "after the first part":
        session.loaded.model.few_tokens = None  # whose passes are not stopped between layers
    for part in session.look(answer, stop):
        parts.append(part)
        if when == "at once" or part.done:
            stop.set()
        session.loaded.model.prefill_chunk = 1
    assert sum(len(part.tokens) for part in parts) < len(answer.token_ids)
    assert session.loaded.cache.token_ids == cached


def test_an_answer_that_fills_the_context(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=500)
    turn(session, "first")
    answer = session.conversation.line[-1]
    assert len(loaded.cache) == 256
    assert len(looked(session, answer)) == len(answer.token_ids)
    session.close()


def test_an_answer_longer_than_the_context(session: ChatSession) -> None:
    answer = turn(session, "hello")
    session.loaded.cache.max_seq_len = 10
    with pytest.raises(UserError, match="--max_seq_len"):
        looked(session, answer)


def test_another_models_answer_is_read_as_text(session: ChatSession) -> None:
    turn(session, "hello")
    own = session.conversation.line[-1]
    assert session.is_own(own)
    session.conversation.line[-1] = other = replace(
        own, model="another", text="Fine", token_ids=[7]
    )
    assert not session.is_own(other)
    tokens = looked(session, other)
    assert "".join(token.text for token in tokens) == "Fine"
    assert {token.seconds for token in tokens} == {None}


def test_an_empty_answer(session: ChatSession) -> None:
    turn(session, "hello")
    session.conversation.line[-1] = empty = replace(
        session.conversation.line[-1], text="", token_ids=[]
    )
    assert looked(session, empty) == []


def test_times_that_are_none_are_not_known(session: ChatSession) -> None:
    """An imported file may have any numbers."""
    answer = turn(session, "hello")
    times = [math.nan, -1.0, math.inf, 0.5] * len(answer.token_ids)
    session.conversation.line[-1] = strange = replace(answer, token_seconds=times)
    tokens = looked(session, strange)
    assert [token.seconds for token in tokens[:4]] == [None, None, None, 0.5]


def test_an_empty_prompt(session: ChatSession) -> None:
    answer = turn(session, "hello")
    other = ChatSession(
        session.loaded, ChatTemplate("none", "{# #}"), GREEDY, 12, conversation=session.conversation
    )
    with pytest.raises(UserError, match="--template"):
        looked(other, answer)
    other.close()


def test_damaged_weights_are_told(session: ChatSession) -> None:
    answer = turn(session, "hello")
    norm = session.loaded.model.norm
    assert isinstance(norm, RMSNorm)
    norm.weight = torch.tensor(math.nan)
    with pytest.raises(UserError, match="not finite"):
        looked(session, answer)


def test_tokens_are_named(loaded: LoadedModel) -> None:
    """Parts of characters, and special tokens."""
    smile = list("\N{SLIGHTLY SMILING FACE}!".encode())
    tokenizer = ByteTokenizer()
    parts = lens.look(loaded.model, loaded.cache, tokenizer, [5], [*smile, 257], [0.5], Flag())
    tokens = [token for part in parts for token in part.tokens]
    assert [token.text for token in tokens] == ["\\xf0", "\\x9f", "\\x99", "\\x82", "!", "</s>"]
    assert [token.shown for token in tokens] == ["", "", "", "\N{SLIGHTLY SMILING FACE}", "!", ""]
    assert [token.seconds for token in tokens] == [0.5, None, None, None, None, None]


# Branches


def test_a_branch_begins_with_what_was_chosen(session: ChatSession) -> None:
    answer = turn(session, "hello")
    tokens = looked(session, answer)
    chosen = tokens[3].alternatives[0].id
    begun = [*list(answer.token_ids)[:3], chosen]
    session.branch(answer, begun, list(answer.token_seconds)[:4])
    assert session.conversation.line[-1].state is State.STOPPED
    events = list(session.continue_answer(Flag()))
    branch = session.conversation.line[-1]
    assert list(branch.token_ids)[:4] == begun
    new = [event.id for event in events if isinstance(event, Token)]
    assert list(branch.token_ids)[4:] == new
    assert len(branch.token_seconds) == len(branch.token_ids)
    assert session.conversation.alternatives(answer.id) == (answer.id, branch.id)
    # The prompt and the three tokens were in the cache.
    first = next(event for event in events if isinstance(event, Prefill))
    assert first.total == 1
    # It goes on as the model would have: the greedy tokens after the chosen one.
    assert {token.rank for token in looked(session, branch)[4:]} == {1}


def test_a_branch_may_end_there(session: ChatSession) -> None:
    answer = turn(session, "hello")
    end = session.loaded.tokenizer.special_tokens["</s>"]
    session.branch(answer, [*list(answer.token_ids)[:3], end], [])
    branch = session.conversation.line[-1]
    assert branch.state is State.COMPLETE
    assert (branch.text, len(branch.token_ids)) == (answer.text[:3], 3)


def test_a_branch_of_an_earlier_answer(session: ChatSession) -> None:
    first = turn(session, "hello")
    second = turn(session, "again")
    session.branch(first, [7, 8], [])
    assert [message.id for message in session.conversation.line[:-1]] == [
        session.conversation.line[0].id
    ]
    session.conversation.choose(first.id)
    assert session.conversation.line[-1].id == second.id


def test_a_branch_of_an_answer_that_comes_first(session: ChatSession) -> None:
    """As in a conversation that was imported."""
    history = session.conversation.history
    conversation = history.create(session.model_name).id
    answer = history.add_message(conversation, None, "assistant", "Hello")
    session.conversation.open(conversation)
    session.branch(session.conversation.line[0], [7, 8], [])
    [branch] = session.conversation.line
    assert branch.parent is None
    assert session.conversation.alternatives(answer.id) == (answer.id, branch.id)


def test_alternatives_that_end_the_answer(session: ChatSession) -> None:
    answer = turn(session, "hello")
    ends = {other.id for token in looked(session, answer) for other in token.alternatives}
    session.loaded = replace(session.loaded, end_ids=frozenset(ends))
    for token in looked(session, answer):
        assert all(other.ends for other in token.alternatives)


def test_a_branch_within_a_character(tmp_path: Path) -> None:
    """What was begun and what comes then are one character."""
    config = tiny_config()
    path = write_meta(tmp_path, config, random_weights(config))
    loaded = load_tiny(path, max_seq_len=256)
    session = ChatSession(loaded, PLAIN, Sampling(temperature=0.0), max_gen_len=3)
    answer = turn(session, "hello")
    smile = list("\N{SLIGHTLY SMILING FACE}".encode())
    session.branch(answer, [ord("a"), *smile[:2]], [])
    original = loaded.model.logits
    rest = iter([smile[2], smile[3], ord("!")])

    def forced(x):
        logits = torch.zeros_like(original(x))
        logits[..., next(rest)] = 1.0
        return logits

    loaded.model.few_tokens = None  # computes logits by itself
    loaded.model.logits = forced  # type: ignore[method-assign]
    events = list(session.continue_answer(Flag()))
    text = "".join(event.text for event in events if isinstance(event, Token))
    assert text == "\N{SLIGHTLY SMILING FACE}!"
    assert session.conversation.line[-1].text == "a\N{SLIGHTLY SMILING FACE}!"
    assert session.is_own(session.conversation.line[-1])
    session.close()
