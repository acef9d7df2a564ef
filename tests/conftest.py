import os
import signal
import tempfile
from pathlib import Path

import pytest

from llama_cpu.loading.demo_model import demo_model_path, fetch_demo_model
from llama_cpu.system.paths import state_folder
from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()
# A shell that starts the tests in the background has SIGINT ignored, by them and by every program
# that they start; Ctrl+C is to be tested there, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What the programs that tests start keep is not for the user's own database and cache; the demo
# model there may be used.
_data = tempfile.TemporaryDirectory()
os.environ["XDG_DATA_HOME"] = _data.name
_demo_model = demo_model_path()
if _demo_model.exists():
    os.environ["XDG_CACHE_HOME"] = str(Path(_data.name) / "cache")
    if demo_model_path() != _demo_model:  # a system that does as XDG says
        demo_model_path().parent.mkdir(parents=True)
        demo_model_path().symlink_to(_demo_model)

import torch  # noqa: E402


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file; fetched once, then kept in the user's cache folder."""
    return fetch_demo_model()


@pytest.fixture(autouse=True)
def nobodys_settings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of whoever runs the tests; also for the programs that tests start."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    marker = state_folder() / "welcomed"  # the first lines were seen
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """The same sums in the same order on every machine."""
    torch.set_num_threads(2)
