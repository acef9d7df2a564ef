from pathlib import Path

import pytest

from tests.support.merging import OLD, write_half


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_half(tmp_path / "in" / "13B", 2)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with a model of before."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "merged.pth").write_bytes(OLD)
    return folder
