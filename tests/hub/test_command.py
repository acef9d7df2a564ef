"""``llama-cpu pull`` and ``--model`` as commands, also killed in the middle of a download."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.cli.main import main
from llama_cpu.errors import UserError
from llama_cpu.hub.cached import cached_model
from llama_cpu.hub.places import hub_cache
from llama_cpu.hub.reference import parse_reference
from llama_cpu.loading.discovery import find_models
from llama_cpu.loading.named_model import NamedModel, named_model
from llama_cpu.tui.model_source import ModelSource
from tests.hub.conftest import MODEL, REPOSITORY
from tests.support.checkpoints import random_weights, tiny_config, write_hugging_face
from tests.support.hub_server import Hub

PATIENCE = 30  # seconds
# The command without PyTorch, which it does not need, so that it starts quickly.
PULL = "import sys; from llama_cpu.cli.main import main; sys.exit(main(sys.argv[1:]))"


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PULL, "pull", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )


def partial_bytes() -> int:
    return sum(path.stat().st_size for path in hub_cache().rglob("*.incomplete"))


def until_bytes(wanted: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while partial_bytes() < wanted and process.poll() is None:
        assert time.monotonic() < deadline, "the download did not get there"
        time.sleep(0.005)


def test_the_path_is_printed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", f"{REPOSITORY}:Q8_0"]) == 0
    shown = capsys.readouterr()
    path = Path(shown.out.strip())
    assert path.read_bytes() == MODEL + b"more"
    assert f"llama-cpu chat --model {REPOSITORY}:Q8_0" in shown.err


@pytest.mark.parametrize("words", [["pull", "no-slash"], ["pull", "org/other"]])
def test_errors_are_one_sentence(
    words: Sequence[str], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("Error: ")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C cannot be sent to one process")
def test_ctrl_c_pauses(hub: Hub) -> None:
    hub.drip, hub.drip_bytes = 0.01, 1000
    process = start(REPOSITORY)
    until_bytes(20_000, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and not out
    assert "Paused at " in err and "goes on from here" in err and "Traceback" not in err
    hub.drip = 0
    assert main(["pull", REPOSITORY]) == 0
    assert int(hub.downloads()[-1].removeprefix("bytes=").rstrip("-")) >= 20_000


def killed_and_resumed(hub: Hub, kills: int) -> None:
    """Kill a download at random places, then let it finish and compare."""
    chance = random.Random(kills)
    hub.drip, hub.drip_bytes = 0.002, 2000
    share = len(MODEL) * 9 // 10 // kills
    for kill in range(kills):
        process = start(REPOSITORY)
        until_bytes(kill * share + chance.randint(1, share), process)
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL
        assert MODEL.startswith(next(hub_cache().rglob("*.incomplete")).read_bytes())
    hub.drip = 0
    process = start(REPOSITORY)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert Path(out.strip()).read_bytes() == MODEL
    resumed = [span for span in hub.downloads() if span]
    assert len(resumed) >= kills - 1 and not list(hub_cache().rglob("*.incomplete"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_killed_twice_and_resumed(hub: Hub) -> None:
    killed_and_resumed(hub, 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_killed_ten_times_and_resumed(hub: Hub) -> None:
    killed_and_resumed(hub, 10)


def test_two_downloads_of_one_file_at_once(hub: Hub) -> None:
    hub.drip, hub.drip_bytes = 0.002, 5000
    processes = [start(REPOSITORY) for _ in range(2)]
    paths = {process.communicate(timeout=PATIENCE)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert [Path(path).read_bytes() for path in paths] == [MODEL]
    assert len(hub.downloads()) == 1


# --model


def test_a_named_model_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    named = named_model(f"{REPOSITORY}:Q4_K_M")
    assert named.path and named.path.read_bytes() == MODEL
    assert named.name == f"{REPOSITORY}/Small-Q4_K_M"
    hub.asked.clear()
    assert named_model(f"{REPOSITORY}:q4_k_m") == named_model(REPOSITORY) == named
    assert not hub.asked
    assert [(each.path, each.name) for each in find_models([]) if each.program] == [
        (named.path, named.name)
    ]
    assert named_model(str(tmp_path)) == NamedModel(tmp_path)
    with pytest.raises(UserError, match="write ORG/REPO"):
        named_model("no such thing")


def test_a_folder_of_the_hub_is_opened(hub: Hub, tmp_path: Path) -> None:
    config = tiny_config()
    folder = write_hugging_face(tmp_path / "m", config, random_weights(config))
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    hub.repositories["org/tiny"] = files
    hub.extra = {"config": {"model_type": "llama"}}
    checkpoint = open_checkpoint(named_model("org/tiny").path or Path())
    assert checkpoint.config.dim == config.dim
    assert named_model("org/tiny").name == "org/tiny"


def test_the_app_downloads_as_the_command_does(hub: Hub) -> None:
    reference = parse_reference(REPOSITORY)
    path = ModelSource().pull(reference, lambda done, total, text: None, threading.Event())
    assert path == cached_model(reference)


def test_model_and_ckpt_dir_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["complete", "a", "--model", REPOSITORY, "--ckpt_dir", "x"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_the_option_is_looked_up_for_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for words in (["complete", "a"], ["bench"], ["chat", "--plain", "--no_history"]):
        assert main([*words, "--no_config", "--model", "org/elsewhere"]) == 2
        assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
