"""``llama-cpu history`` as scripts and people call it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cpu.cli.main import main
from llama_cpu.history.rows import State
from llama_cpu.history.store import History
from llama_cpu.kv_store.index import file_path
from llama_cpu.system.paths import history_path, kv_folder
from tests.history.conftest import ROOT

Run = Callable[..., str]


@pytest.fixture
def conversation(history: History) -> int:
    new = history.create("model").id
    user = history.add_message(new, None, "user", "What is\x1b[2J it?")
    for text, state in (("One", State.COMPLETE), ("Two\x9b", State.CUT)):
        history.save_answer(history.begin_answer(new, user.id, "model").id, text, [], state=state)
    return new


@pytest.fixture
def run(database: Path, history: History, capsys: pytest.CaptureFixture) -> Run:
    """What a command writes to standard output, if it ends as it should."""

    def run(verb: str, *words: object, code: int = 0) -> str:
        assert main(["history", verb, "--history", str(database), *map(str, words)]) == code
        return capsys.readouterr().out

    return run


def test_list(run: Run, history: History, conversation: int) -> None:
    newer = history.create(title="Tabs\tand\nlines \x1b]0;x\x07").id
    rows = [line.split("\t") for line in run("list").splitlines()]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (str(newer), "0", "Tabs and lines ␛]0;x␇"),
        (str(conversation), "3", "What is␛[2J it?"),
    ]
    assert all(len(row) == 4 and len(row[1]) == len("2026-01-31 14:05") for row in rows)
    values = json.loads(run("list", "--json"))
    assert [value["id"] for value in values] == [newer, conversation]
    assert values[1].keys() == {"id", "title", "model", "created", "updated", "messages"}
    assert values[1]["title"] == "What is\x1b[2J it?" and values[1]["messages"] == 3


def test_show(run: Run, conversation: int) -> None:
    shown = run("show", conversation)
    assert shown == "[user]\nWhat is␛[2J it?\n\n[assistant, cut, 2 of 2]\nTwo�\n"


def test_export_and_import(run: Run, history: History, conversation: int, tmp_path: Path) -> None:
    markdown = run("export", conversation)
    assert markdown.startswith("# What is␛[2J it?\n\n*model, ")
    target = tmp_path / "made" / "export.json"
    assert run("export", conversation, "--format", "json", "--output", target) == ""
    assert target.read_text(encoding="utf-8") == run("export", conversation, "--format", "json")
    new = int(run("import", target))
    assert [each.text for each in history.path(new)] == ["What is␛[2J it?", "Two�"]
    assert [path.name for path in target.parent.iterdir()] == ["export.json"]


def test_a_file_is_replaced_only_when_asked(
    run: Run, conversation: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "notes.md"
    target.write_text("mine")
    run("export", conversation, "--output", target, code=2)
    assert target.read_text() == "mine"
    run("export", conversation, "--output", target, "--force")
    assert target.read_text(encoding="utf-8").startswith("# What is")
    run("export", conversation, "--output", tmp_path / "notes.md" / "below", code=2)


def test_delete_asks_on_a_terminal_only(
    run: Run, history: History, conversation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = []

    def reply(text: str) -> Callable[[str], str]:
        return lambda question: questions.append(question) or text  # type: ignore[func-returns-value]

    run("delete", conversation, code=2)  # standard input is no terminal here
    terminal = type("Terminal", (), {"isatty": lambda _: True})()
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", reply("n"))
    assert run("delete", conversation, code=1) == "Nothing was deleted.\n"
    assert "What is␛[2J it?" in questions[0] and "3 messages" in questions[0]
    assert history.get(conversation).id == conversation
    monkeypatch.setattr("builtins.input", reply("y"))
    run("delete", conversation)
    assert history.conversations() == []
    other = history.create().id
    monkeypatch.setattr("builtins.input", None)
    run("delete", other, "--yes")
    assert history.conversations() == []


def test_search(run: Run, history: History, conversation: int) -> None:
    history.create(title="--strange")
    (row,) = run("search", "what", "i").splitlines()
    assert row.split("\t")[0] == str(conversation)
    assert row.split("\t")[2:] == ["What is␛[2J it?", "What is␛[2J it?"]
    assert run("search", "nothing") == ""
    assert len(run("search", "--", "--strange").splitlines()) == 1


@pytest.mark.parametrize("words", [("show", 99), ("export", 99), ("delete", 99, "--yes")])
def test_no_such_conversation(run: Run, capsys: pytest.CaptureFixture, words: tuple) -> None:
    run(*words, code=2)


@pytest.mark.parametrize("id", ["0x1", "-1", "one", "9" * 30, "", "٣"])
def test_what_is_no_id(run: Run, id: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run("show", id)
    assert caught.value.code == 2


def test_a_path_with_no_history_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "typo.db"
    assert main(["history", "list", "--history", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: {path} does not exist") and len(error.splitlines()) == 1
    assert not path.exists()


def test_the_users_own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: nothing was kept yet, and neither torch nor textual is needed."""
    code = "import sys; from llama_cpu.cli.main import main; code = main(['history', 'list'])\n"
    code += "assert 'torch' not in sys.modules and 'textual' not in sys.modules\n"
    code += "from llama_cpu.system.paths import history_path; print(history_path()); sys.exit(code)"
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **folders},
    )
    assert (done.returncode, done.stderr) == (0, "")
    path = Path(done.stdout.strip())
    if sys.platform != "win32":
        assert path.is_relative_to(tmp_path)
        assert path.exists()
    assert path.name == history_path().name


def test_help_names_every_verb(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["history", "--help"])
    text = capsys.readouterr().out
    for verb in ("list", "show", "export", "import", "delete", "search"):
        assert verb in text
    with pytest.raises(SystemExit) as caught:
        main(["history"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_saved_caches(
    run: Run,
    history: History,
    conversation: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("caches") == ""
    assert history.file
    other = file_path(kv_folder(), tmp_path / "other.db", 1)
    paths = [file_path(kv_folder(), history.file, each) for each in (conversation, 77)]
    kv_folder().mkdir(parents=True)
    for path in (other, *paths):
        path.write_bytes(bytes(2048))
    rows = [line.split("\t") for line in run("caches").splitlines()]
    assert {(row[0], row[1]) for row in rows} == {(str(conversation), "2.0 KiB"), ("77", "2.0 KiB")}
    run("delete", conversation, "--yes")
    assert [path.exists() for path in (other, *paths)] == [True, False, True]
    assert run("caches", "--clear") == "Removed: 2 files, 4.0 KiB.\n"
    assert list(kv_folder().iterdir()) == []
    assert run("caches", "--clear") == "Removed: 0 files, 0 B.\n"
    other.write_bytes(bytes(2048))
    monkeypatch.setattr("llama_cpu.cli.history.remove_file", lambda path: False)  # as on Windows
    told = run("caches", "--clear", code=1)
    removed, left = "Removed: 0 files, 0 B.", "Could not be removed: 1 file, 2.0 KiB in"
    assert told == f"{removed} {left} {kv_folder()}.\n"
