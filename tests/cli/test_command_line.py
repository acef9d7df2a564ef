"""The scripts as a user calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cpu.cli.main import COMMANDS, chat_main, complete_main, main
from llama_cpu.history.store import History
from llama_cpu.history.transfer import as_markdown

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(demo_model: Path) -> list[str]:
    return ["--ckpt_dir", str(demo_model), "--temperature", "0"]


def run(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=300,
        env={**os.environ, "PYTHONUTF8": "1"},
    )


def test_text_to_standard_output_and_figures_to_standard_error(demo: list[str]) -> None:
    done = run("example_cpu.py", "What is the capital of France?", "--chat", *demo)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The capital of France is Paris.\n"
    for figure in ("prompt:", "tokens/s", "95th percentile", "memory:", "KV cache"):
        assert figure in done.stderr


def test_an_int8_cache(demo: list[str]) -> None:
    question = ["What is the capital of France?", "--chat", "--kv_int8"]
    done = run("example_cpu.py", *question, *demo)
    assert "Paris" in done.stdout, done.stderr
    assert "(int8)" in done.stderr


def test_json(demo: list[str], capsys: pytest.CaptureFixture) -> None:
    arguments = ["The capital of France is", "--json", "--max-gen-len", "7", *demo]
    assert complete_main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["text"].startswith(" Paris")
    assert len(result["tokens"]) == len(result["token_seconds"]) == 7
    assert result["prompt_tokens"] == 5
    assert result["stop_reason"] == "length"
    assert result["weights_bytes"] == 96_576_768  # as in the file: Q4_1, and Q8_0 where it is tied
    assert result["kv_cache_bytes"] == 2 * 30 * 3 * 64 * 4096 * 2
    assert result["peak_rss_bytes"] > result["weights_bytes"]
    assert result["prefill_seconds"] > 0


def test_a_chat_in_a_pipe_is_kept_and_continued(demo: list[str], tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    chat = ["example_chat.py", *demo, "--history", str(path), "--max_gen_len", "8"]
    assert run(*chat, "--continue", "--system", "Be kind.", stdin="One?\n").returncode == 0
    assert run(*chat, "--continue", stdin="Two?\n").returncode == 0
    assert run(*chat, stdin="Three?\n").returncode == 0
    with History(path) as history:
        newest, oldest = history.conversations()
        assert [newest.title, oldest.title] == ["Three?", "One?"]
        line = history.path(oldest.id)
        assert [each.text for each in line[::2]] == ["One?", "Two?"] and len(line) == 4
        assert oldest.settings == {"system": "Be kind."}
        assert "## System\n\nBe kind." in as_markdown(oldest, line)


def test_nothing_of_a_chat_is_kept(demo: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    done = run("example_chat.py", *demo, "--no_history", "--max_gen_len", "8", stdin="One?\n")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_used(demo: list[str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all " * 100)
    done = run("example_chat.py", *demo, "--history", str(tmp_path / "text"), stdin="One?\n")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and "--no_history" in done.stderr
    done = run("example_chat.py", *demo, "--history", str(tmp_path), "--no_history", stdin="")
    assert done.returncode == 2 and "not allowed with" in done.stderr


def test_chat_in_a_pipe_line_by_line(demo: list[str]) -> None:
    questions = "What is the capital of France?\n\nAnd of Germany?\n"
    done = run("example_chat.py", *demo, "--max_gen_len", "40", stdin=questions)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "The capital of France is Paris.",
        "The capital of Germany is Berlin.",
    ]


def test_the_same_seed_gives_the_same_answer(
    demo_model: Path, capsys: pytest.CaptureFixture
) -> None:
    def answer(seed: int) -> list[int]:
        arguments = ["Once", "--json", "--max_gen_len", "12", "--seed", str(seed)]
        complete_main([*arguments, "--ckpt_dir", str(demo_model), "--temperature", "1.5"])
        return json.loads(capsys.readouterr().out)["tokens"]

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_system_prompt_and_template(demo: list[str], capsys: pytest.CaptureFixture) -> None:
    def tokens(*options: str) -> int:
        complete_main(["Hi", "--chat", "--json", "--max_gen_len", "1", *options, *demo])
        return json.loads(capsys.readouterr().out)["prompt_tokens"]

    plain = tokens()
    assert tokens("--system", "You are a pirate who speaks in rhymes and never stops.") > 5
    assert tokens("--template", "chatml") < plain  # the model's own adds a system prompt


@pytest.mark.parametrize("script", ["example_chat.py", "example_cpu.py"])
def test_help_reads_well_and_needs_no_torch(script: str) -> None:
    code = f"import sys, runpy; sys.argv = ['{script}', '--help']\n"
    code += "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally:\n    assert 'torch' not in sys.modules and 'textual' not in sys.modules\n"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    options = "ckpt_dir tokenizer_path bf16 threads system template temperature top_p top_k min_p"
    options += " seed max_seq_len max_gen_len"
    for option in options.split():
        assert f"--{option}" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


@pytest.mark.parametrize("script", ["example_chat.py", "example_cpu.py", "merge_weights.py"])
def test_without_the_requirements_one_sentence_says_what_to_run(script: str) -> None:
    done = run("-S", script)  # without site-packages
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: The package ") and " is missing; run " in line
    assert "-m pip install -r requirements.txt" in line


def test_a_requirement_that_is_missed_later_is_one_sentence(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tomlkit", None)
    monkeypatch.setattr("llama_cpu.settings.user_config._is_there", lambda path: True)
    monkeypatch.setattr("llama_cpu.settings.user_config.read_small_file", lambda *_: b"a = 1")
    assert chat_main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "The package tomlkit is missing; run " in line


def test_threads_sleep_while_they_wait_unless_told_otherwise() -> None:
    code = "import os; from llama_cpu.cli.main import run_reporting_errors\n"
    code += "run_reporting_errors(lambda: print(os.environ['OMP_WAIT_POLICY']) or 0, False)"
    assert "PASSIVE" in run("-c", code).stdout
    code = "import os; os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'\n" + code
    assert "ACTIVE" in run("-c", code).stdout


def test_installed_command(capsys: pytest.CaptureFixture, demo: list[str]) -> None:
    assert main(["complete", "1, 2, 3,", "--max_gen_len", "3", *demo]) == 0
    assert "4" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["no-such-command"])
    assert caught.value.code == 2


def test_help_lists_every_command_and_needs_no_torch() -> None:
    code = "import sys\nfrom llama_cpu.cli.main import main\n"
    code += "try:\n    main(sys.argv[1:])\n"
    code += "finally:\n    assert 'torch' not in sys.modules and 'textual' not in sys.modules\n"
    done = run("-c", code, "--help")
    assert done.returncode == 0, done.stderr
    for name, command in COMMANDS.items():
        assert any(
            line.split() == [name, *command.about.split()] for line in done.stdout.splitlines()
        )
        done_with_one = run("-c", code, name, "--help")
        assert done_with_one.returncode == 0, done_with_one.stderr
        assert f"usage: llama-cpu {name} " in done_with_one.stdout
        assert command.about in done_with_one.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("hist list", "llama-cpu: Unknown command 'hist'. Did you mean 'history'?"),
        (
            "x",
            "llama-cpu: Unknown command 'x'. The commands are chat, complete, pull, bench, merge,",
        ),
        ("chat --temprature 1", "chat: Unknown option '--temprature'. Did you mean '--temperature"),
        ("complete hi --max-gen-lenth=3", "Unknown option '--max_gen_lenth'. Did you mean '--max_"),
        ("history export 1 --outptu x", "export: Unknown option '--outptu'. Did you mean '--outpu"),
        ("chat --qqq", "Unknown option '--qqq'. All options are listed by --help."),
        ("merge 13B", "llama-cpu merge: Unexpected argument: '13B'."),
        ("chat --threads x", "chat: argument --threads: 'x' is not a whole number above 0"),
    ],
)
def test_unknown_words_are_one_line_with_a_suggestion(
    words: str, said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split(" "))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "--help)" in line


def test_options_take_hyphens_and_underscores_in_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for option in ("--no-config", "--no_config"):
        assert main(["config", option]) == 0
        assert main(["chat", "--ckpt-dir", str(tmp_path / "no-such_place"), option]) == 2
        assert "no-such_place" in capsys.readouterr().err


@pytest.mark.parametrize("command", [chat_main, complete_main])
def test_unknown_option_is_one_line(command, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        command(["--no-such-option"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
