"""The choice of products is measured once and then read; no state of the file is an error."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama_cpu.cli.main import command_parser
from llama_cpu.errors import UserError
from llama_cpu.loading import plan as planning
from llama_cpu.weights import stored_choice
from llama_cpu.weights.choice import MeasuredOperators
from llama_cpu.weights.measuring import Measurement
from llama_cpu.weights.stored_choice import Circumstances, StoredChoices
from llama_cpu.weights.weight_format import WeightFormat
from tests.weights.test_choice import SHAPE, Clock, product, toy_format

HERE = Circumstances("1.0", "2.13", "a processor", 2, "toy", (1024, 512))
MEASURED = Measurement("b", "a", 4, 1, 63, 15, {"a": {1: 0.5, 512: 3.0}, "b": {1: 0.25, 512: 2.0}})


def toy(clock: Clock, quick: str = "quick", works: bool = True) -> WeightFormat:
    products = [
        product(clock, "slow", one=1.0, prompt=5.0),
        product(clock, quick, one=0.5, prompt=5.0, in_place=False, works=works),
        product(clock, "other", one=2.0, prompt=5.0),
    ]
    return toy_format(products)


def no_time() -> float:
    raise AssertionError("this was measured again")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "products.json"  # the folder does not exist yet


def measured(path: Path, weight_format: Callable[[Clock], WeightFormat] = toy) -> bool:
    """Choose as a new process does, and return whether that measured anything."""
    clock = Clock()
    MeasuredOperators(clock, StoredChoices(path)).choose(weight_format(clock), SHAPE, 2)
    return clock.now > 0


def test_later_starts_do_not_measure(path: Path) -> None:
    clock = Clock()
    first = MeasuredOperators(clock, StoredChoices(path))
    later = MeasuredOperators(no_time, StoredChoices(path))
    same = toy(clock)
    chosen = first.choose(same, SHAPE, 2)
    assert chosen.product.name == "quick"
    assert later.choose(same, SHAPE, 2) == chosen
    assert later.measurement(same, SHAPE, 2) == first.measurement(same, SHAPE, 2)
    assert [each.name for each in path.parent.iterdir()] == ["products.json"]


def test_another_shape_or_number_of_threads_is_measured(path: Path) -> None:
    clock = Clock()
    same = toy(clock)
    MeasuredOperators(clock, StoredChoices(path)).choose(same, SHAPE, 2)
    for shape, threads in [((2048, 512), 2), (SHAPE, 1)]:
        before = clock.now
        MeasuredOperators(clock, StoredChoices(path)).choose(same, shape, threads)
        assert clock.now > before
        MeasuredOperators(no_time, StoredChoices(path)).choose(same, shape, threads)
    MeasuredOperators(no_time, StoredChoices(path)).choose(same, SHAPE, 2)  # still kept
    # Larger matrices are measured with the same sample.
    MeasuredOperators(clock, StoredChoices(path)).choose(same, (1 << 15, 512), 2)
    MeasuredOperators(no_time, StoredChoices(path)).choose(same, (1 << 16, 512), 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__version__", "99.0"),
        ("processor_name", lambda: "another"),
        ("get_cpu_capability", lambda: "another"),
    ],
)
def test_another_program_or_processor_is_measured(
    name: str, value: object, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured(path) and not measured(path)
    with monkeypatch.context() as changed:
        changed.setattr(stored_choice, name, value)
        assert measured(path) and not measured(path)
    assert not measured(path)


def test_another_torch_is_measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(path)
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert measured(path)


def test_other_products_are_measured(path: Path) -> None:
    """One that was renamed, stopped working on this processor, or works only now."""
    assert measured(path) and not measured(path)
    assert measured(path, lambda clock: toy(clock, quick="renamed"))
    assert measured(path, lambda clock: toy(clock, works=False))
    assert not measured(path, lambda clock: toy(clock, works=False))
    assert measured(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("product", "unknown"),
        ("product", None),
        ("in_place", "quick"),  # it is not in place
        ("rows_at_once", 0),
        ("rows_at_once", 1000),
        ("rows_at_once", "many"),
        ("rows_at_once", float("inf")),
        ("in_place_rows_at_once", []),
        ("few_rows", 0),
        ("in_place_few_rows", 64),
        ("seconds", []),
        ("seconds", {"slow": 1}),
        ("seconds", {}),
    ],
)
def test_a_wrong_entry_is_measured_again(name: str, value: object, path: Path) -> None:
    assert measured(path)
    stored = json.loads(path.read_text())
    stored["measured"][0][name] = value
    path.write_text(json.dumps(stored))
    assert measured(path) and not measured(path)


@pytest.mark.parametrize("times", [{"1": -1.0}, {"1": float("nan")}, {"one": 1.0}, {"1": 1.0}])
def test_wrong_times_are_measured_again(times: dict[str, float], path: Path) -> None:
    assert measured(path)
    stored = json.loads(path.read_text())
    stored["measured"][0]["seconds"]["slow"] |= times
    stored["measured"][0]["seconds"]["slow"].pop("512")
    path.write_text(json.dumps(stored))
    assert measured(path) and not measured(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"measured": 1}', b'{"measured": [1, [], {}]}',
     b'{"measured": [{"circumstances": 1}]}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_replaced(content: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert measured(path) and not measured(path)


def test_a_truncated_file_is_replaced(path: Path) -> None:
    assert measured(path)
    path.write_bytes(path.read_bytes()[:-40])
    assert measured(path) and not measured(path)


def test_a_folder_in_place_of_the_file_or_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "products.json").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "products.json", tmp_path / "file" / "products.json"):
        assert measured(path) and measured(path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder without writing")
def test_a_read_only_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    assert measured(path) and measured(path)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_measured_at_every_start(
    error: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    assert measured(path, lambda clock: toy(clock, works=False))
    before = path.read_bytes()
    monkeypatch.setattr("llama_cpu.system.atomic_files.AtomicFiles.open", fails)
    assert measured(path) and measured(path)
    assert path.read_bytes() == before


def test_a_disk_that_becomes_full_while_writing(path: Path) -> None:
    resource = pytest.importorskip("resource")
    assert measured(path, lambda clock: toy(clock, works=False))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert measured(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["products.json"]


def test_the_oldest_entries_are_dropped(path: Path) -> None:
    stored = StoredChoices(path)
    for threads in range(1, 101):
        stored.keep(replace(HERE, threads=threads), MEASURED)
    found = [stored.find(replace(HERE, threads=threads)) for threads in range(1, 101)]
    assert found == [None] * 36 + [MEASURED] * 64


def test_a_measurement_replaces_the_earlier_one(path: Path) -> None:
    stored = StoredChoices(path)
    for rows in (2, 8):
        stored.keep(HERE, replace(MEASURED, rows_at_once=rows))
    assert stored.find(HERE) == replace(MEASURED, rows_at_once=8)
    assert len(json.loads(path.read_text())["measured"]) == 1


def test_retune_measures_and_stores(path: Path) -> None:
    clock = Clock()
    same = toy(clock)
    StoredChoices(path).keep(
        Circumstances.here("toy", SHAPE, 2), replace(MEASURED, product="quick", rows_at_once=8)
    )
    operators = MeasuredOperators(clock, StoredChoices(path), retune=True)
    operators.choose(same, SHAPE, 2)
    until = clock.now
    operators.choose(same, SHAPE, 2)
    assert clock.now == until > 0  # once per run
    stored = StoredChoices(path).find(Circumstances.here("toy", SHAPE, 2))
    assert stored == operators.measurement(same, SHAPE, 2) != MEASURED


@pytest.mark.parametrize("words", [["--retune"], []])
@pytest.mark.parametrize("command", ["chat", "complete"])
def test_the_option(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def operators(retune: bool = False, *_: object) -> None:
        asked.append(retune)
        raise UserError("enough")

    monkeypatch.setattr(planning, "stored_operators", operators)
    prompt = ["a prompt"] if command == "complete" else []
    args = command_parser(command, "x").parse_args([*prompt, *words])
    with pytest.raises(UserError, match="enough"):
        planning.plan_from_arguments(args)
    assert asked == [bool(words)]


_KEEP = """
import sys
from pathlib import Path
from tests.weights.test_stored_choice import HERE, MEASURED, StoredChoices, replace
stored = StoredChoices(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    stored.keep(replace(HERE, threads=1 + number % 2), MEASURED)
    assert stored._entries(), "a file that was not complete"
"""


@pytest.mark.slow
def test_two_first_starts_at_once(path: Path) -> None:
    """Whenever one writes, the file is complete and the other is not disturbed."""
    command = [sys.executable, "-c", _KEEP, str(path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    assert MEASURED in [StoredChoices(path).find(replace(HERE, threads=n)) for n in (1, 2)]
    assert [each.name for each in path.parent.iterdir()] == ["products.json"]
