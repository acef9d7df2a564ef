"""Every screen looks as it did: at 80x24, at 200x60, without colours.

After a change that is wanted: ``pytest tests/tui/test_snapshots.py --snapshot-update``, and look at
the pictures that git says have changed. A failure writes ``snapshot_report.html`` with both.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_textual_snapshot

from tests.support.svg import smaller
from tests.tui.scenes import SCENES, app_of, made_up_machine, play  # noqa: F401

SIZES = ((80, 24), (200, 60))


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin's own normalization takes out the ids, which are other ones each time."""
    without_ids = pytest_textual_snapshot.normalize_svg
    monkeypatch.setattr(
        pytest_textual_snapshot, "normalize_svg", lambda svg: smaller(without_ids(svg))
    )


@pytest.mark.usefixtures("made_up_machine")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", SCENES)
def test_looks_as_before(
    snap_compare: Callable[..., bool],
    name: str,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = SCENES[name]
    if not scene.in_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    app = app_of(scene, tmp_path)
    try:
        assert snap_compare(app, terminal_size=size, run_before=lambda pilot: play(scene, pilot))
    finally:
        app.close()
