"""Fixtures for all tests: the demo model, and folders in place of the user's own."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from llama_cpu.loading.demo_model import demo_model_path, fetch_demo_model
from llama_cpu.system.paths import cache_folder, state_folder
from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()
# A shell that starts the tests in the background ignores SIGINT, and so would the tests and every
# program that they start. Ctrl+C is tested there, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs started by tests must not write to the user's database and caches. The user's copy of the
# demo model may be used, and so may compiled kernels: their names say what they were made of.
_data = tempfile.TemporaryDirectory()
os.environ["XDG_DATA_HOME"] = _data.name
_demo_model, _kernels = demo_model_path(), cache_folder() / "kernels"
if _demo_model.exists():
    os.environ["XDG_CACHE_HOME"] = str(Path(_data.name) / "cache")
    if demo_model_path() != _demo_model:  # a system that follows XDG
        demo_model_path().parent.mkdir(parents=True)
        demo_model_path().symlink_to(_demo_model)
        _kernels.mkdir(exist_ok=True)
        (cache_folder() / "kernels").symlink_to(_kernels)

import torch  # noqa: E402

TESTS = Path(__file__).parent
# Files whose tests take a second of the processor or more on average, in which an app is driven key
# by key, programs are started and killed, or shards are merged. Single tests are marked where they
# are. To find out what is slow: python -m pytest --durations=50
SLOW_FILES = frozenset(
    TESTS / name
    for name in (
        "bad_input/test_processes.py",
        "benchmarks/test_benchmarks.py",
        "chat/test_killed.py",
        "chat/test_reopened.py",
        "cli/test_command_line.py",
        "conversion/test_merge.py",
        "conversion/test_merge_fairscale.py",
        "conversion/test_merge_safety.py",
        "kv_store/test_interrupted.py",
        "tui/test_cache_work.py",
        "tui/test_chat_screen.py",
        "tui/test_every_key.py",
        "tui/test_every_size.py",
        "tui/test_figures_screen.py",
        "tui/test_find_bar.py",
        "tui/test_first_minutes.py",
        "tui/test_help_screen.py",
        "tui/test_hostile_text.py",
        "tui/test_lens.py",
        "tui/test_model_screen.py",
        "tui/test_panels.py",
        "tui/test_prompt_area.py",
        "tui/test_settings_screen.py",
        "tui/test_sidebar.py",
        "tui/test_slash.py",
        "tui/test_turns.py",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, and those with the demo model, which the first one fetches."""
    if missing := [path for path in SLOW_FILES if not path.exists()]:
        raise pytest.UsageError(f"SLOW_FILES of {__file__} names {missing[0]}, which is not there.")
    for item in items:
        uses_demo_model = "demo_model" in getattr(item, "fixturenames", ())
        if uses_demo_model:
            item.add_marker(pytest.mark.network)
        # The quick suite takes the small picture of each screen.
        is_large_picture = item.path.name == "test_snapshots.py" and "200x60" in item.name
        if uses_demo_model or is_large_picture or item.path in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


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
