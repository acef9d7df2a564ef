"""Settings of a conversation: their ranges, storing them, and applying them to a session."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from threading import Event as Flag

import pytest

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Finished, StopReason, Token
from llama_cpu.generation.sampling import Sampling
from llama_cpu.settings.generation_settings import SETTINGS, Settings
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import GREEDY, load_tiny

PLAIN = ChatTemplate("plain", "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ChatSession]:
    config = tiny_config()
    loaded = load_tiny(write_meta(tmp_path, config, random_weights(config)), max_seq_len=256)
    session = ChatSession(loaded, PLAIN, GREEDY, max_gen_len=5, system="be kind")
    yield session
    session.close()


def test_every_setting_has_a_range_and_the_defaults_of_sampling() -> None:
    settings = asdict(Settings())
    assert settings.keys() == SETTINGS.keys()
    for field in fields(Sampling):
        assert settings[field.name] == field.default


def test_settings_survive_being_stored() -> None:
    settings = Settings("be kind", "chatml", 0.5, 0.9, 40, 0.05, 1.1, 7, 100)
    stored = json.loads(json.dumps(settings.as_dict()))
    assert Settings().updated(stored) == settings
    assert settings.updated({"temperature": 1, "of_a_newer_version": [1]}) == replace(
        settings, temperature=1
    )


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": "hot"}, {"temperature": None}, {"temperature": True}, {"temperature": -1},
        {"temperature": float("nan")}, {"top_k": 1.5}, {"seed": -1}, {"seed": 1 << 63},
        {"system": 3}, {"system": "half \ud800"}, {"template": []}, {"max_gen_len": 0},
        {"min_p": [[]]}, {"top_p": 10**400},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_settings_are_refused_by_name(values: dict) -> None:
    with pytest.raises(UserError, match=next(iter(values))) as caught:
        Settings().updated(values)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", " 0.5 ", 0.5), ("temperature", "1e-3", 0.001), ("top_k", "40", 40),
        ("seed", "", None), ("seed", str((1 << 63) - 1), (1 << 63) - 1), ("template", " ", None),
        ("system", "", ""), ("system", " a\nb", " a\nb"),
    ],
)  # fmt: skip
def test_what_is_typed(name: str, text: str, value: object) -> None:
    assert SETTINGS[name].parsed(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", ""), ("temperature", "x"), ("temperature", "nan"), ("temperature", "101"),
        ("top_k", "1.5"), ("top_k", "-1"), ("seed", str(1 << 63)), ("max_gen_len", "9" * 5000),
    ],
)  # fmt: skip
def test_what_is_typed_wrongly(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a .*number from"):
        SETTINGS[name].parsed(text)


def test_a_session_tells_and_takes_settings(session: ChatSession) -> None:
    assert session.settings == Settings("be kind", temperature=0.0, max_gen_len=5)
    wanted = Settings("be brief", "chatml", 0.5, 0.9, 40, 0.05, 1.1, 7, 3)
    session.apply(wanted)
    assert session.settings == wanted
    assert session.template_name == "chatml"
    assert [message.text for message in session.messages] == ["be brief"]
    session.apply(replace(wanted, system=""))
    assert session.messages == []
    session.apply(wanted)
    assert [message.role for message in session.messages] == ["system"]


def test_a_template_that_is_not_there_changes_nothing(session: ChatSession) -> None:
    before = session.settings
    with pytest.raises(UserError, match="neither a readable file"):
        session.apply(replace(before, template="/no/such.jinja", temperature=1.0))
    assert session.settings == before


def test_settings_count_from_the_next_answer_on(session: ChatSession) -> None:
    """An answer that is being given goes on as it began, with all that belongs to it."""
    session.add_user("hi")
    answer = session.answer(Flag())
    seen = [next(answer)]
    session.apply(Settings("other", "chatml", 0.0, max_gen_len=2))
    seen += answer
    assert sum(isinstance(event, Token) for event in seen) == 5
    last = seen[-1]
    assert isinstance(last, Finished)
    assert last == Finished(StopReason.LENGTH, last.text)
    assert [message.role for message in session.messages] == ["system", "user", "assistant"]
    assert session.messages[0].text == "other"
    session.add_user("again")
    assert sum(isinstance(event, Token) for event in session.answer(Flag())) == 2


def test_the_random_numbers_go_on_unless_the_drawing_changes(session: ChatSession) -> None:
    session.apply(replace(session.settings, temperature=5.0, seed=1))
    session.add_user("hi")
    list(session.answer(Flag()))
    first = session.messages[-1].token_ids
    session.conversation.set_aside_answer()
    session.apply(replace(session.settings, system="be kind"))
    list(session.answer(Flag()))
    assert session.messages[-1].token_ids != first


def test_settings_are_stored_with_the_conversation_and_come_back(session: ChatSession) -> None:
    session.add_user("hi")
    usual = session.settings
    session.apply(replace(usual, temperature=0.25, system="be brief"))
    conversation = session.conversation
    conversation.save_settings()
    stored = conversation.stored
    assert stored is not None
    assert conversation.history.get(stored.id).settings == {
        "temperature": 0.25,
        "system": "be brief",
    }
    conversation.clear()
    assert session.settings == usual
    conversation.open(stored.id)
    assert session.settings == replace(usual, temperature=0.25, system="be brief")
    conversation.clear()
    session.apply(replace(usual, template="chatml"))
    session.add_user("another")
    assert conversation.stored and conversation.stored.settings["template"] == "chatml"
    assert session.template_name == "chatml"
    conversation.open(stored.id)
    assert session.template_name == "plain"


def test_a_system_prompt_that_was_taken_away_stays_away(session: ChatSession) -> None:
    session.add_user("hi")
    session.apply(replace(session.settings, system=""))
    session.conversation.save_settings()
    assert session.conversation.stored
    id = session.conversation.stored.id
    session.conversation.clear()
    assert session.settings.system == "be kind"
    session.conversation.open(id)
    assert session.settings.system == "" and session.messages[0].role == "user"


@pytest.mark.parametrize(
    "settings", [{"temperature": "hot"}, {"template": "/no/such.jinja"}, {"system": 3}]
)
def test_stored_settings_that_are_no_good_give_way_to_the_usual_ones(
    session: ChatSession, settings: dict
) -> None:
    usual = session.settings
    id = session.conversation.history.create("m", settings).id
    session.conversation.history.add_message(id, None, "user", "hi")
    session.conversation.open(id)
    assert session.settings == usual
    assert any(isinstance(event, Token) for event in session.answer(Flag()))
