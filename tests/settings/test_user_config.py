"""config.toml: what it may say, whose word counts, and how one line of it is changed."""

import os
import stat
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from llama_cpu.cli.main import COMMANDS, chat_main, command_parser, complete_main, main
from llama_cpu.errors import UserError
from llama_cpu.settings.user_config import ENTRIES, UserConfig, read_config, save_entry, with_entry
from llama_cpu.system import atomic_files as atomic_files
from llama_cpu.system.paths import config_path

ALL = r"""
ckpt_dir = '~/models/7B'
model_folders = ["models", '/somewhere/else']
precision = "int8"
max_seq_len = 1024
threads = 2
kv_int8 = true
system = "Answer \"in\" one\tsentence.\u0007"
template = "chatml"
temperature = 1
top_p = 0.5
seed = 9223372036854775807
max_gen_len = 10
no_history = true
theme = "nord"

[keys]
regenerate = "f9"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_there_need_not_be_a_file() -> None:
    assert read_config() == UserConfig(config_path())
    assert read_config(None, no_config=True) == UserConfig()


def test_everything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    file.write_text(ALL, encoding="utf-8-sig")
    config = read_config(file)
    assert config.values["ckpt_dir"] == Path("/home/me/models/7B")
    assert config.values["model_folders"] == [file.parent / "models", Path("/somewhere/else")]
    assert config.values["system"] == 'Answer "in" one\tsentence.\x07'
    assert config.values["temperature"] == 1
    assert config.keys == {"regenerate": "f9"}


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("temperature = 'hot'", "temperature"), ("temperature = 1000", "temperature"),
        ("temperature = nan", "temperature"), ("temperature = true", "temperature"),
        ("top_k = 1.5", "top_k"), ("threads = 0", "threads"), ("threads = 9999", "threads"),
        ("precision = 'int2'", "precision"), ("precision = ['int8']", "precision"),
        ("ckpt_dir = ''", "ckpt_dir"), ("theme = 3", "theme"),
        ('ckpt_dir = "a\\u0000b"', "ckpt_dir"),
        ("model_folders = 'x'", "model_folders"), ("model_folders = [1]", "model_folders"),
        ("force = 1", "force"), ("temprature = 1", "Did you mean 'temperature'"),
        ("kv_int8 = 'yes'", "kv_int8"),
        ("\"\\u001b[2J\" = 1", "Unknown setting"), ("[answers]\ntemperature = 1", "answers"),
        ("keys = 3", "keys"), ("[keys]\nregenerate = 3", "regenerate"), ("temperature 1", "line 1"),
        ("temperature = 1\ntemperature = 2", "TOML"), ("a = " + "[" * 5000, "TOML"),
        ("seed = " + "9" * 5000, ""), ("seed = 9223372036854775808", "seed"),
        ("system = 1979-05-27", "system"), ("ckpt_dir = '~nobody-of-that-name/x'", "home"),
    ],
    ids=lambda text: text[:25],
)  # fmt: skip
@pytest.mark.parametrize("command", ["chat", "complete", "config"])
def test_a_broken_file_is_one_sentence(
    text: str, entry: str, command: str, file: Path, capsys: pytest.CaptureFixture
) -> None:
    file.write_text(text)
    words = ["hello"] if command == "complete" else []
    assert main([command, *words, "--config", str(file)]) == 2
    _is_one_sentence(capsys.readouterr().err, file, entry)


def test_a_theme_that_is_not_there(file: Path, capsys: pytest.CaptureFixture) -> None:
    """Only where there are themes to compare with: not outside the app."""
    file.write_text("theme = 'x'")
    assert main(["config", "--config", str(file)]) == 2
    _is_one_sentence(capsys.readouterr().err, file, "nord")


def _is_one_sentence(error: str, file: Path, entry: str) -> None:
    assert error.count("\n") == 1 and str(file) in error and entry in error
    assert "\x1b" not in error and len(error) < 600


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = 1\0"])
def test_not_text(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"config\.toml"):
        read_config(file)


def test_a_folder_a_pipe_and_nothing(file: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; name another file with --config"):
        read_config(file)
    file.mkdir()
    with pytest.raises(UserError, match="not a file"):
        read_config(file)
    if hasattr(os, "mkfifo"):
        file.rmdir()
        os.mkfifo(file)
        with pytest.raises(UserError, match="not a file"):
            read_config(file)


def test_ckpt_dir_of_the_command_line_beats_the_model_of_the_file(file: Path, monkeypatch) -> None:
    seen = watch(monkeypatch, "chat")
    file.write_text('model = "org/m:Q8_0"\nckpt_dir = "x"')
    for words in ([], ["--ckpt_dir", "y"], ["--model", "org/n"]):
        assert chat_main(["--config", str(file), *words]) == 0
    assert [args.model for args in seen] == ["org/m:Q8_0", None, "org/n"]


def test_every_option_has_an_entry() -> None:
    """But for those that are about one run."""
    options = {action.dest for action in command_parser("chat", "x")._actions}
    of_one_run = {"help", "version", "debug", "config", "no_config", "continue_latest", "retune"}
    assert options - of_one_run == ENTRIES.keys() - {"model_folders", "theme", "panels"}


def test_only_one_of_the_two_options(capsys: pytest.CaptureFixture) -> None:
    for command in (chat_main, complete_main):
        with pytest.raises(SystemExit) as stopped:
            command(["x", "--config", "x", "--no_config"])
        assert stopped.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def watch(monkeypatch: pytest.MonkeyPatch, command: str) -> list[Namespace]:
    """The options of each run of a command, which does nothing else from now on."""
    seen = []

    def run(args: Namespace) -> int:
        seen.append(args)
        return 0

    monkeypatch.setitem(COMMANDS, command, replace(COMMANDS[command], run=run))
    return seen


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch):
    """The options that a command ends up with."""
    seen = watch(monkeypatch, "complete")

    def run(*words: str):
        assert complete_main(["hello", *words]) == 0
        return seen[-1]

    return run


def test_the_command_line_comes_first(file: Path, namespace) -> None:
    file.write_text(ALL)
    args = namespace("--config", str(file))
    assert (args.temperature, args.precision, args.threads) == (1, "int8", 2)
    assert args.kv_int8
    words = ["--temperature", "0.25", "--float32", "--seed=3", "--no-kv-int8"]
    args = namespace("--config", str(file), *words)
    assert (args.temperature, args.precision, args.seed) == (0.25, "float32", 3)
    assert not args.kv_int8
    assert args.top_p == 0.5


def test_a_history_on_the_command_line_is_kept(file: Path, monkeypatch) -> None:
    seen = watch(monkeypatch, "chat")
    file.write_text("no_history = true\nhistory = 'mine.db'")
    assert chat_main(["--config", str(file), "--history", "here.db"]) == 0
    assert chat_main(["--config", str(file)]) == 0
    assert [args.no_history for args in seen] == [False, True]
    assert [args.history for args in seen] == [Path("here.db"), file.parent / "mine.db"]


def test_the_file_in_the_users_folder_is_found(namespace) -> None:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().write_text("temperature = 0.125")
    assert namespace().temperature == 0.125
    assert namespace("--no_config").temperature is None


def test_the_file_comes_before_the_model(file: Path, demo_model: Path, namespace) -> None:
    from llama_cpu.chat.open_session import sampling_from
    from llama_cpu.loading.plan import plan_loading

    plan = replace(plan_loading(demo_model), generation_config={"top_p": 0.25, "top_k": 7})
    file.write_text("top_p = 0.5")
    sampling = sampling_from(plan, namespace("--config", str(file)))
    assert (sampling.top_p, sampling.top_k, sampling.temperature) == (0.5, 7, 0.8)


def test_a_system_prompt_in_the_file_is_no_reason_for_a_note(
    file: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    file.write_text("system = 'Be kind.'")
    nothing = ["--ckpt_dir", str(tmp_path / "nothing"), "--config", str(file)]
    assert complete_main(["hello", *nothing]) == 2
    assert "Note" not in capsys.readouterr().err
    assert complete_main(["hello", "--system", "Be brief.", *nothing]) == 2
    assert "Note: --system" in capsys.readouterr().err


# The sample


@pytest.mark.parametrize("text", ["", ALL])
def test_the_sample_is_a_file_that_says_the_same(
    text: str, file: Path, capsys: pytest.CaptureFixture
) -> None:
    file.write_text(text)
    assert main(["config", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if str(file) not in line]
    assert all(len(line) <= 120 for line in lines)
    before = read_config(file)
    file.write_text(printed)
    assert read_config(file) == before
    for name in ENTRIES:
        assert f"\n{name} = " in printed or f"\n# {name} =" in printed
    assert "regenerate = " in printed


def test_every_default_of_the_sample_may_be_uncommented(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["config", "--no_config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = [
        line.removeprefix("# ") for line in lines if " = " in line and "default:" not in line
    ]
    assert len(entries) > 20
    file.write_text("\n".join(["[keys]" if line == "[keys]" else line for line in entries]))
    text = file.read_text()
    first_key = text.index("quit = ")
    file.write_text(f"{text[:first_key]}[keys]\n{text[first_key:]}")
    assert main(["config", "--config", str(file)]) == 0
    assert read_config(file).values["temperature"] == 0.8


# Changing one line


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'theme = "nord"\n'),
        ("# mine\n", '# mine\ntheme = "nord"\n'),
        ("seed = 1", 'seed = 1\ntheme = "nord"\n'),
        ("theme = 'x'  # dark # blue\nseed = 1\n", 'theme = "nord"  # dark # blue\nseed = 1\n'),
        ('theme="x"\r\nseed = 1\r\n', 'theme="nord"\r\nseed = 1\r\n'),
        ("seed = 1\r\n# mine\r\n", 'seed = 1\r\n# mine\r\ntheme = "nord"\r\n'),
        ('system = """\ntheme = "x"\n"""\n', 'system = """\ntheme = "x"\n"""\ntheme = "nord"\n'),
        ('system = """\n[keys]\n"""\n', 'system = """\n[keys]\n"""\ntheme = "nord"\n'),
        ('"theme" = "x"\n', '"theme" = "nord"\n'),
        ('theme = """x"""  # mine\n', 'theme = "nord"  # mine\n'),
        ("  theme = 'x'\n# end", '  theme = "nord"\n# end'),
        ("seed = 1\n# keys:\n[keys]\nsend = 'f5'\n",
         "seed = 1\n# keys:\ntheme = \"nord\"\n\n[keys]\nsend = 'f5'\n"),
        ("\ufeffseed = 1\n", '\ufeffseed = 1\ntheme = "nord"\n'),
        ("[keys]\ntheme = 'f5'\n", "theme = \"nord\"\n\n[keys]\ntheme = 'f5'\n"),
    ],
)  # fmt: skip
def test_one_line_changes(before: str, after: str) -> None:
    assert with_entry(before, "theme", "nord") == after
    assert with_entry(after, "theme", "nord") == after


@pytest.mark.parametrize("text", ["broken", "seed = 1\nseed = 2\n", "a = " + "[" * 5000, "a = [\n"])
def test_a_file_that_is_not_toml_stays(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match='write theme = "nord" into it yourself'):
        save_entry(file, "theme", "nord")
    assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


def test_saving_makes_the_folder_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    save_entry(path, "theme", "nord")
    assert path.read_text() == 'theme = "nord"\n'
    path.write_text("# mine\nseed = 1\n")
    save_entry(path, "theme", 'a"\\b')
    assert read_config(path).values == {"seed": 1, "theme": 'a"\\b'}
    assert path.read_text().startswith("# mine\n")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes are others there")
def test_saving_keeps_a_link_and_the_mode(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "dotfiles.toml"
    target.write_text("seed = 1\n")
    target.chmod(0o600)
    file.symlink_to(target)
    save_entry(file, "theme", "nord")
    assert file.is_symlink()
    assert target.read_text() == 'seed = 1\ntheme = "nord"\n'
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed = 1\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.AtomicFiles, "publish", full)
    with pytest.raises(UserError, match="No space left"):
        save_entry(file, "theme", "nord")
    assert file.read_text() == "seed = 1\n"
    assert list(file.parent.iterdir()) == [file]
