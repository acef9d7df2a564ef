"""Fixtures for all tests: the demo model, and folders in place of the user's own."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from llama_cpu.loading.demo_model import demo_model_path, fetch_demo_model
from llama_cpu.system.paths import state_folder
from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()
# A shell that starts the tests in the background ignores SIGINT, and so would the tests and every
# program that they start. Ctrl+C is tested there, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs started by tests must not write to the user's database and caches. The user's copy of the
# demo model may be used.
_data = tempfile.TemporaryDirectory()
os.environ["XDG_DATA_HOME"] = _data.name
_demo_model = demo_model_path()
if _demo_model.exists():
    os.environ["XDG_CACHE_HOME"] = str(Path(_data.name) / "cache")
    if demo_model_path() != _demo_model:  # a system that follows XDG
        demo_model_path().parent.mkdir(parents=True)
        demo_model_path().symlink_to(_demo_model)

import torch  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the demo model as ``network``: the first of them fetches it."""
    for item in items:
        if "demo_model" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.network)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file, fetched once and then kept in the user's cache folder."""
    return fetch_demo_model()


@pytest.fixture(autouse=True)
def nobodys_settings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the settings of whoever runs the tests away, also from programs that tests start."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    marker = state_folder() / "welcomed"  # the welcome screen was shown
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Use two threads on every machine, so that sums are computed in the same order."""
    torch.set_num_threads(2)
