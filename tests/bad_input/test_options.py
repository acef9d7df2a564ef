"""Options out of their range, prompts that do not fit, memory that does not suffice."""

import io
import re
import sys
from pathlib import Path

import pytest

from llama_cpu.cli.main import chat_main, complete_main
from tests.bad_input.test_json_files import change_json


@pytest.mark.parametrize(
    "option",
    [
        "--temperature=-1", "--temperature=nan", "--temperature=inf", "--top_p=2", "--top_p=-0.1",
        "--top_p=nan", "--min_p=2", "--top_k=-1", "--top_k=99999999999999999999",
        "--repetition_penalty=0", "--repetition_penalty=nan", "--seed=-1",
        "--seed=99999999999999999999", "--max_seq_len=0", "--max_seq_len=-5",
        "--max_seq_len=99999999999999999999", "--template=unheard-of", "--template=",
        "--template=" + "x" * 300,
    ],
)  # fmt: skip
def test_out_of_range(option: str, model, refused) -> None:
    assert option.split("=")[0] in refused(model("meta"), option)


@pytest.mark.parametrize("command", [chat_main, complete_main])
@pytest.mark.parametrize(
    "options",
    [
        ["--threads", "0"], ["--threads", "-1"], ["--threads", "1000000"], ["--threads", "x"],
        ["--max_gen_len", "0"], ["--max_gen_len", "1.5"], ["--temperature", "hot"], ["--top_k"],
        ["--unheard-of"], ["--seed", "9" * 5000],
    ],
    ids=lambda options: " ".join(options)[:30],
)  # fmt: skip
def test_not_understood(command, options: list[str], capsys: pytest.CaptureFixture) -> None:
    prompt = ["hello"] if command is complete_main else []
    with pytest.raises(SystemExit) as stopped:
        command([*prompt, *options])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert options[0].replace("-", "_")[2:] in error.replace("-", "_")
    assert error.count("\n") == 1


def test_no_prompt(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        complete_main([])
    assert stopped.value.code == 2
    assert "PROMPT" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", ["0", "1e-300", "1e-40", "1e-9", "100"])
@pytest.mark.parametrize("more", [[], ["--repetition_penalty", "100"], ["--top_k", "1"]])
def test_the_ends_of_the_ranges_work(temperature: str, more: list[str], model, answers) -> None:
    answers(model("meta"), "--temperature", temperature, "--top_p", "0", "--min_p", "1", *more)


@pytest.mark.parametrize("chat", [[], ["--chat"]], ids=["raw", "chat"])
def test_prompt_longer_than_the_context(chat: list[str], model, refused) -> None:
    message = refused(model("meta"), *chat, prompt="x" * 900)
    assert "context" in message and "256" in message


def test_longer_than_the_context_in_a_piped_chat(model, capsys, monkeypatch) -> None:
    """Said, and then the chat goes on; the exit code remembers."""
    options = ["--template", "chatml", "--ckpt_dir", str(model("hugging_face"))]
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 900 + "\nhi\n"))
    assert chat_main([*options, "--max_gen_len", "3"]) == 2
    captured = capsys.readouterr()
    assert "context" in captured.err and "Traceback" not in captured.err
    assert len(captured.out.splitlines()) == 2


@pytest.mark.parametrize("prompt", ["", " ", "\0", "\n", "\x1b[2J", "<s></s>", "\ue000\ue003"])
@pytest.mark.parametrize("chat", [[], ["--chat"]], ids=["raw", "chat"])
def test_odd_prompts_are_answered(prompt: str, chat: list[str], model, answers) -> None:
    answers(model("meta"), *chat, prompt=prompt)


def test_an_empty_prompt_without_a_first_token(model, refused) -> None:
    assert "empty" in refused(model("hugging_face"), prompt="")


@pytest.mark.parametrize("chat", [[], ["--chat"]], ids=["raw", "chat"])
def test_a_prompt_that_is_not_text(chat: list[str], model, refused) -> None:
    folder = model("meta")
    assert "UTF-8" in refused(folder, *chat, prompt="a\udcffb")
    assert "UTF-8" in refused(folder, *chat, "--system", "a\udcffb")


@pytest.mark.parametrize("chat", [[], ["--chat"]], ids=["raw", "chat"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_standard_input_that_is_not_text(chat, errors, model, refused, monkeypatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "UTF-8" in refused(model("meta"), *chat, prompt="-")


def test_standard_input_without_end(model, refused, monkeypatch) -> None:
    with Path("/dev/zero").open() as zeros:
        monkeypatch.setattr(sys, "stdin", zeros)
        assert "characters" in refused(model("meta"), prompt="-")


def test_a_chat_of_what_is_not_text(model, capsys, monkeypatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert chat_main(["--ckpt_dir", str(model("meta"))]) == 2
    error = capsys.readouterr().err
    assert "UTF-8" in error and error.count("\n") == 1


@pytest.mark.parametrize("free", [0, 100 << 10])
def test_not_enough_memory(free: int, model, refused, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.loading.plan.available_memory", lambda: free)
    message = refused(model("meta"))
    assert re.search(r"which is [\d.]+ [MK]iB too little", message)
    assert "--bf16" in message or "smaller model" in message
    assert "--force" in message


def test_force_goes_on_all_the_same(model, answers, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.loading.plan.available_memory", lambda: 0)
    answers(model("meta"), "--force")


def test_force_cannot_make_memory(model, refused, monkeypatch) -> None:
    """An absurd context in a model's file, asked for."""
    folder = model("meta")
    change_json(folder / "params.json", {"max_seq_len": 1 << 28})
    longest = ["--max_seq_len", str(1 << 28)]
    assert "too little" in refused(folder, *longest)

    def no_memory(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("llama_cpu.model.kv_cache.lazy_memory", no_memory)
    assert "--max_seq_len" in refused(folder, *longest, "--force")
