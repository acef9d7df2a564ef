"""The chat line by line: how to leave, and which lines are commands."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from llama_cpu.chat.session_protocol import Session
from llama_cpu.cli import plain_chat
from llama_cpu.cli.main import main
from llama_cpu.cli.plain_chat import as_message, command_of, problem_of, run_plain_chat
from tests.tui.fakes import FakeSession, script


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class PlainSession(FakeSession):
    def add_user(self, text: str) -> None:
        self.conversation.add_user(text)


def chat(monkeypatch: pytest.MonkeyPatch, session: Session, lines: str) -> int:
    monkeypatch.setattr("sys.stdin", Terminal(lines))
    monkeypatch.setattr(plain_chat, "load_with_progress", lambda plan, opening: session)
    monkeypatch.setattr(plain_chat, "session_opener", lambda *rest: None)
    plan: Any = SimpleNamespace(is_demo=False)
    return run_plain_chat(plan, None, session.conversation)  # type: ignore[arg-type]


def test_commands_are_not_sent_to_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = PlainSession([script("One."), script("Two.")])
    lines = "/help\nHi\n/?\n/new\n//help me\n/bye\nnever\n"
    assert chat(monkeypatch, session, lines) == 0
    out, err = capsys.readouterr()
    assert out == "One.\nTwo.\n"
    assert "/bye or Ctrl+D leaves" in err and err.count("begin a new conversation") == 2
    assert [message.text for message in session.messages] == ["//help me", "Two."]


def test_which_lines_are_commands() -> None:
    lines = ("/help", "/?", "/clear ", "/bye", "/etc/hosts?", "help", "//help", "")
    names = ["help", "help", "new", "quit", "", "", "", ""]
    assert [command_of(line) for line in lines] == names
    assert as_message("//help") == "/help" and as_message("// a comment") == "// a comment"


def test_commands_of_the_app_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = PlainSession([script("One."), script("Two.")])
    lines = "/set temperature 1\n/zzz\n//zzz\n/etc/hosts is what?\n/bye\n"
    assert chat(monkeypatch, session, lines) == 2
    out, err = capsys.readouterr()
    assert "/set works in the app only" in err and "Unknown command /zzz" in err
    assert out == "One.\nTwo.\n"
    assert [each.text for each in session.messages][::2] == ["/zzz", "/etc/hosts is what?"]


def test_which_lines_are_refused() -> None:
    refused = ("/set", "/system You are kind.", "/zzz", "/zzz ")
    sent = ("//set x", "/zzz what is it?", "/etc/hosts?", "/ a", "/", "", "set", "//", "// a", "/?")
    assert all(map(problem_of, refused)) and not any(map(problem_of, sent))
    assert as_message("//set x") == "/set x" and as_message("//etc/hosts") == "//etc/hosts"


def test_help_says_what_the_commands_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "examples:" in text and "'llama-cpu COMMAND --help' lists the options" in text
    with pytest.raises(SystemExit):
        main(["chat", "--help"])
    text = capsys.readouterr().out
    assert "history.db" in "".join(text.split()) and "your data folder" not in text
