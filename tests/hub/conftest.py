"""A hub on the loopback address, with an empty cache for what is downloaded from it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import Hub, serve

REPOSITORY = "org/Small-GGUF"
MODEL = random.Random(1).randbytes(300_000)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, with one repository of GGUF files."""
    files = {
        "README.md": b"# Small",
        "Small-Q4_K_M.gguf": MODEL,
        "Small-Q8_0.gguf": MODEL + b"more",
        "pytorch_model.bin": b"a pickle",
    }
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with serve(Hub({REPOSITORY: files})) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served
