"""Presets: what config.toml may say of them, how one is written, and how one is chosen."""

from argparse import Namespace
from pathlib import Path

import pytest
import tomlkit

from llama_cpu.cli import main as cli
from llama_cpu.errors import UserError
from llama_cpu.settings.user_config import UserConfig, read_config, sample, save_preset
from llama_cpu.tui.presets import NO_FILE, Presets, summary

TEXT = """\
temperature = 0.5  # warm

[presets.brief]
system = "Answer in one sentence."
temperature = 0.1

[presets.story-2]
top_p = 1
"""
BRIEF = {"system": "Answer in one sentence.", "temperature": 0.1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    return path


def test_they_are_read(file: Path) -> None:
    config = read_config(file)
    assert config.presets == {"brief": BRIEF, "story-2": {"top_p": 1}}
    assert config.values == {"temperature": 0.5}
    with pytest.raises(UserError, match=r"'brif'\. Did you mean 'brief'"):
        config.preset("brif")
    with pytest.raises(UserError, match=r"no presets yet; write a table \[presets.NAME\]"):
        UserConfig(file).preset("x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("presets = 3", "presets must be tables"),
        ("[presets]\nbrief = 3", r"presets.brief must be a table"),
        ("[presets.a]\ntemperature = 'hot'", r"\[presets.a\] temperature is 'hot'"),
        ("[presets.a]\ntemprature = 1", r"\[presets.a\] .*Did you mean 'temperature'"),
        ("[presets.a]\nckpt_dir = 'x'", r"A preset may have system"),
        ("[presets.'two words']\ntop_k = 1", "must be one word"),
        ("[presets.'\\u001b']\ntop_k = 1", "must be one word"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=problem) as error:
        read_config(file)
    assert str(file) in str(error.value)


def test_one_is_written_and_the_rest_stays(file: Path) -> None:
    save_preset(file, "new", {"system": 'Say "hi"\n', "top_k": 40})
    save_preset(file, "story-2", {"top_p": 0.5})
    assert "temperature = 0.5  # warm" in file.read_text()
    assert read_config(file).presets == {
        "brief": BRIEF,
        "story-2": {"top_p": 0.5},
        "new": {"system": 'Say "hi"\n', "top_k": 40},
    }


def test_the_first_one_makes_the_table(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "config.toml"
    save_preset(file, "brief", BRIEF)
    assert read_config(file).presets == {"brief": BRIEF}
    assert file.read_text().startswith("[presets.brief]")
    file.write_text("theme = 'nord'\n[keys]\nregenerate = 'f9'\n")
    save_preset(file, "brief", BRIEF)
    assert read_config(file) == UserConfig(
        file, {"theme": "nord"}, {"regenerate": "f9"}, {"brief": BRIEF}
    )
    with pytest.raises(UserError, match="must be one word"):
        save_preset(file, "two words", BRIEF)


def test_the_sample_has_them(file: Path) -> None:
    printed = sample(read_config(file), {}, {})
    assert tomlkit.parse(printed).unwrap()["presets"] == read_config(file).presets
    assert "presets" not in tomlkit.parse(sample(UserConfig(), {}, {}))


def test_one_is_chosen_by_an_option(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Namespace] = []

    def run(args: Namespace) -> int:
        seen.append(args)
        return 0

    monkeypatch.setattr("llama_cpu.cli.chat._plain_chat", run)
    options = ["--plain", "--config", str(file), "--preset"]
    assert cli.chat_main([*options, "brief"]) == 0
    assert cli.chat_main([*options, "brief", "--temperature", "0.9"]) == 0
    assert cli.chat_main([*options, "story-2"]) == 0
    chosen = [(args.system, args.temperature, args.top_p) for args in seen]
    system = BRIEF["system"]
    assert chosen == [(system, 0.1, None), (system, 0.9, None), (None, 0.5, 1)]
    assert cli.chat_main([*options, "brif"]) == 2 and len(seen) == 3
    file.write_text('preset = "brief"\n' + TEXT)
    assert cli.chat_main(options[:-1]) == 0
    assert cli.chat_main([*options, "story-2"]) == 0
    assert [args.system for args in seen[3:]] == [system, None]


def test_the_apps_presets(file: Path) -> None:
    presets = Presets(read_config(file))
    presets.save("mine", {"top_k": 3, "seed": None})
    assert presets.get("mine") == {"top_k": 3} and read_config(file).presets == presets.all
    for name, settings in (("", BRIEF), ("empty", {}), ("a b", BRIEF)):
        with pytest.raises(UserError):
            presets.save(name, settings)
    with pytest.raises(UserError, match=NO_FILE):
        Presets(UserConfig()).save("mine", BRIEF)


def test_a_summary_is_one_line() -> None:
    assert summary("brief", BRIEF) == "brief: temperature 0.1, “Answer in one sentence.”"
    long = summary("x", {"system": "a\n\x1b" * 100})
    assert "\n" not in long and "\x1b" not in long and len(long) < 80
