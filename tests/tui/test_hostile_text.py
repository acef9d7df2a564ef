"""No control character of a conversation, a model or a setting reaches the terminal."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from llama_cpu.chat.lens import LensPart
from llama_cpu.history.transfer import as_json, read_conversation
from llama_cpu.loading.discovery import FoundModel
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.tui.model_source import ModelSource
from llama_cpu.tui.widgets.fields import LineField, TextField
from tests.tui.driving import chat, screen
from tests.tui.fakes import FakeSession
from tests.tui.lens_words import WORDS
from tests.tui.scenes import MODELS, kept, made_up_machine, message  # noqa: F401
from tests.tui.walking import walk

# OSC 52 writes the clipboard; DCS, CSI, C1 forms of them, and entities that Markdown resolves.
HOSTILE = (
    "x\x1b]52;c;aGk=\x07 \x1bPq#0\x1b\\ \x1b[2J\x1b[31m \x9b31m \x9d52;c;aGk=\x9c \x08\r\x0c\x7f "
    "&#27;[31m &#13;&#12; [x\x1b[1m](http://x/\x1b]0;t\x07&#13;)"
)
ANSWER = (
    f"<think>{HOSTILE}</think># {HOSTILE}\n\n- [ ] {HOSTILE}\n\n"
    f"| {HOSTILE} |\n| -: |\n| {HOSTILE} |\n\n"
    f"```{HOSTILE}\n{HOSTILE}\n```\n\n> `{HOSTILE}` **{HOSTILE}**\n"
)


def hostile_session() -> FakeSession:
    """As if the database had been written by somebody else."""
    session = FakeSession()
    session.model_name = f"model {HOSTILE}"
    talk = kept(
        session.history,
        0,
        message(1, None, "user", HOSTILE),
        message(2, 1, "assistant", ANSWER, model=HOSTILE),
    )
    session.history.rename(talk, HOSTILE)
    session.conversation.open(talk)
    session.settings = Settings(system=HOSTILE, template=HOSTILE)
    session.template_name = HOSTILE
    tokens = tuple(replace(each, text=HOSTILE) for each in WORDS)
    session.looks = [[LensPart(1, 1, tokens)]]
    return session


def written(pilot: Pilot[int]) -> str:
    """All text that the present screen would write to the terminal."""
    segments = [
        segment for strip in pilot.app.screen._compositor.render_strips() for segment in strip
    ]
    assert not any(segment.control for segment in segments)
    return "".join(segment.text for segment in segments)


def controls(text: str) -> set[str]:
    return {each for each in text if unicodedata.category(each) == "Cc"}


@pytest.mark.usefixtures("made_up_machine")
async def test_every_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, HOSTILE, replace(MODELS["damaged.gguf"], problem=HOSTILE))
    models = ModelSource(lambda: [FoundModel(Path("/x") / HOSTILE, HOSTILE)])
    async with chat(hostile_session(), (120, 60), models=models) as pilot:
        await pilot.press("alt+t")  # the thinking, too
        async for stop in walk(pilot):
            assert controls(written(pilot)) == set(), stop.name
            for field in [*pilot.app.screen.query(LineField), *pilot.app.screen.query(TextField)]:
                text = field.value if isinstance(field, LineField) else field.text
                assert controls(text) <= {"\n", "\t"}, stop.name
        screen(pilot).warn(HOSTILE)
        await pilot.pause(0.1)
        assert controls(written(pilot)) == set()


def test_what_is_imported_is_clean(tmp_path: Path) -> None:
    session = hostile_session()
    stored = session.conversation.stored
    assert stored
    file = tmp_path / "export.json"
    conversation, messages = session.history.tree(stored.id)
    conversation = replace(conversation, settings={"system": HOSTILE, "stop": [{"x": HOSTILE}]})
    file.write_text(as_json(conversation, messages))
    imported, their_messages = read_conversation(file)
    texts = [imported.title, imported.model, imported.settings["system"]]
    texts += [imported.settings["stop"][0]["x"]]
    texts += [text for each in their_messages for text in (each.text, each.model)]
    assert all(controls(text) <= {"\n", "\t"} for text in texts)
    assert len(texts) == 8
