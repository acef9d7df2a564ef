"""The benchmark's own parts; it measures nothing here."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import sides
from benchmarks.__main__ import some_of
from benchmarks.gguf_files import write_random
from benchmarks.limits import bits_per_weight, prefill_seconds, tensor_bytes, work
from benchmarks.measure import Subject, speed, subjects
from benchmarks.models import FILE, FILE_KINDS, ModelFiles, main_kind
from benchmarks.peers import PEERS, Variant
from benchmarks.report import Report, Row, disturbance_note, machine_note, rate
from benchmarks.sides import Rounds, Side, SideFailed, opened
from benchmarks.workers.protocol import Options, Task, Times, prompt_ids
from llama_cpu.bench.machine_speed import READ_BYTES, MachineSpeed
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.weights.formats import FORMATS
from tests.support.checkpoints import read_all, tiny_config

CONFIG = tiny_config(vocab_size=20400, context_length=8192)
ANY = Variant("any", lambda files: files.source, 1.0)
MACHINE = MachineSpeed(read=1e9, float32=1e9, bf16=4e9, int8=2e9)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("models")
    source = folder / "tiny.gguf"
    write_random(source, CONFIG)
    return ModelFiles(source, "bf16", open_checkpoint(source).config, folder)


@pytest.fixture
def ours(files: ModelFiles) -> Iterator[Side]:
    with opened(Side("ours", options(files))) as side:
        yield side


def options(files: ModelFiles) -> Options:
    return Options(str(files.source), "float32", 1, 2112, asdict(files.config))


def test_all_files_hold_the_same_weights(files: ModelFiles) -> None:
    source = read_all(files.source)
    assert files.as_gguf("bf16") == files.source
    in_float32 = read_all(files.as_gguf("float32"))
    in_int8 = read_all(files.as_gguf("int8"))
    in_safetensors = load_file(files.as_safetensors())
    assert source.keys() == in_float32.keys() == in_int8.keys() == in_safetensors.keys()
    for name, weight in source.items():
        assert torch.equal(in_float32[name], weight)
        assert torch.equal(in_safetensors[name].float(), weight)
        assert (in_int8[name] - weight).abs().max() <= weight.abs().max() / 127
    assert source["layers.0.attention.wq.weight"].std() == pytest.approx(64**-0.5, rel=0.1)


def test_metadata_is_kept(files: ModelFiles) -> None:
    assert open_checkpoint(files.as_gguf("int8")).config == files.config


def test_a_file_is_written_once(files: ModelFiles) -> None:
    written = files.as_gguf("int8").stat().st_mtime_ns
    assert files.as_gguf("int8").stat().st_mtime_ns == written
    assert not list(files.folder.glob("*.partial"))


def test_our_worker(ours: Side) -> None:
    times = ours.run(Task(prompt=40, decode=3))
    assert len(times.decode) == 3
    assert times.prefill > 0
    assert times.figures["peak"] > times.figures["weights"] > 0
    assert len(ours.run(Task(prompt=40, decode=3, rows=4)).decode) == 3
    again = ours.run(Task(prompt=45, keep=40))  # raises unless 40 were in the cache
    assert again.decode == []
    assert again.figures["kv_cache"] == CONFIG.kv_cache_bytes(45, torch.float32)


def test_reading_between_tokens_is_not_of_their_time(ours: Side) -> None:
    times = ours.run(Task(prompt=40, decode=3, reads=True))
    assert len(times.decode) == 3
    assert 0 < sum(times.decode) < READ_BYTES / times.figures["read"]  # of a tiny model's tokens


def test_a_task_that_fails_is_one_line_and_the_worker_lives(ours: Side) -> None:
    with pytest.raises(SideFailed, match="context holds 2112"):
        ours.run(Task(prompt=3000))
    assert ours.run(Task(prompt=5)).prefill > 0


def test_a_worker_that_dies_is_told(ours: Side) -> None:
    ours._process.kill()
    with pytest.raises(SideFailed, match="it died of SIGKILL"):
        ours.run(Task(prompt=5))


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(SideFailed, match=r"UserError.*nowhere\.gguf"):
        Side("ours", Options("nowhere.gguf"))


def test_prompts_begin_alike() -> None:
    assert prompt_ids(7) == prompt_ids(50)[:7]
    assert max(prompt_ids(4000)) < CONFIG.vocab_size


class FakeSide:
    """Takes no time; notes that it had its turn."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def run(self, task: Task) -> Times:
        self.log.append(self.name)
        return Times(len(self.log), [1.0])

    def cpu_seconds(self) -> float:
        return 0.0


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(sides, "_busy_seconds", lambda: 0.0)


@pytest.mark.usefixtures("quiet")
def test_sides_take_turns() -> None:
    log: list[str] = []
    turns: Any = [(FakeSide(name, log), Task(1)) for name in "ab"]
    results = Rounds(rounds=3, patience=0).run(turns)
    assert "".join(log) == "ab" + "ab" + "ba" + "ab"
    assert [times.prefill for times in results[0]] == [3, 6, 7]


def test_the_least_disturbed_try_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.5, 0.1, 0.0])
    monkeypatch.setattr(sides, "_pause", lambda: 0.0)
    monkeypatch.setattr(sides, "_share", lambda seconds, began: next(shares))
    rounds = Rounds(rounds=1, patience=1000)
    log: list[str] = []
    side: Any = FakeSide("a", log)
    results = rounds.run([(side, Task(1))])
    assert len(log) == 4  # one to warm up, three tries
    assert results[0][0].prefill == 4
    assert rounds.disturbed == [0.0]


def test_a_measurement_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([0.9, 0.8, 0.0])
    log: list[str] = []

    def pause() -> float:
        log.append("waits")
        return next(busy)

    monkeypatch.setattr(sides, "_pause", pause)
    monkeypatch.setattr(sides, "_share", lambda seconds, began: 0.0)
    side: Any = FakeSide("works", log)
    Rounds(rounds=1, patience=1000).run([(side, Task(1))])
    assert log == ["works", "waits", "waits", "waits", "works"]


def test_limits_of_decode(files: ModelFiles) -> None:
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 96) + 20400 * 64  # with the output, not the embedding
    norms = 5 * 64
    assert work(files, "float32").weight_bytes == 4 * (matrices + norms)
    in_cache = 2 * 2 * 64 * 100
    read = work(files, "float32").decode_bytes(100)
    assert read == 4 * (matrices + norms + in_cache)
    assert work(files, "bf16").decode_bytes(100) == read // 2 + 2 * norms
    assert bits_per_weight(files, "bf16") == 16
    assert 8 < bits_per_weight(files, "int8") < 9


def test_limits_of_a_format_that_stays_as_in_the_file(files: ModelFiles) -> None:
    in_int8 = replace(files, source=files.as_gguf("int8"))
    assert bits_per_weight(in_int8, FILE) == 8.5  # 32 bytes and a float16 scale
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 96) + 20400 * 64
    assert work(in_int8, FILE).weight_bytes == matrices * 34 // 32 + 4 * 5 * 64
    assert sum(tensor_bytes(in_int8, FILE).values()) < in_int8.source.stat().st_size


def test_limits_of_prefill(files: ModelFiles) -> None:
    in_layers, output = 2 * (4 * 64 * 64 + 3 * 64 * 96), 20400 * 64
    pairs = 10 * 1000 + 55  # each of ten sees a thousand, itself and those before it
    operations = 2 * (10 * in_layers + 2 * pairs * 2 * 64 + output)
    slow = MachineSpeed(read=1e30, float32=1e9, bf16=4e9, int8=2e9)
    task = Task(prompt=1010, keep=1000)
    seconds = [prefill_seconds(files, kind, task, slow) for kind in ("float32", "bf16", "int8")]
    assert seconds[0] == pytest.approx(operations / 1e9)
    assert seconds[1] == seconds[2] == pytest.approx(operations / 4e9)
    assert prefill_seconds(files, "int8", Task(prompt=2), MACHINE) == pytest.approx(
        work(files, "int8").weight_bytes / 1e9
    )
    assert slow.peak("int4") == slow.peak(FILE) == 4e9


def test_each_precision_has_a_counterpart() -> None:
    for precision in (*(each.label for each in FORMATS), "int4", FILE):
        assert PEERS["llama.cpp"].variants[precision]
    assert [each.name for each in PEERS["llama.cpp"].variants["int4"]] == ["Q4_0", "Q4_K_M"]
    assert {variant.model for variant in PEERS["CTranslate2"].variants["int8"]} == {
        ModelFiles.as_safetensors
    }


def test_a_model_in_the_quantization_of_its_file(files: ModelFiles, tmp_path: Path) -> None:
    demo = ModelFiles(files.as_gguf("int8"), None, files.config, tmp_path)
    assert main_kind(demo.tensors) == "Q8_0"
    bench: Any = SimpleNamespace()
    for _ in range(2):  # the link is made once
        (subject,) = subjects(bench, "demo", demo, FILE)
        assert subject.label == "file Q8_0"
        assert subject.files.source.parent == tmp_path
        assert read_all(subject.files.source).keys() == read_all(demo.source).keys()
    (in_bf16,) = subjects(bench, "demo", demo, "bf16")
    assert in_bf16.label == "bf16"
    assert in_bf16.files is demo


def test_files_quantized_by_llama_cpp(files: ModelFiles, tmp_path: Path) -> None:
    """Stands in for llama.cpp with a program that copies the file that it is to quantize."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncp "$3" "$4" && echo "$2 $5" >> "$(dirname "$0")/log"\n')
    python.chmod(0o755)
    ours = replace(files, folder=tmp_path, python=str(python))
    named = subjects(SimpleNamespace(), "random", ours, FILE)  # type: ignore[arg-type]
    assert [subject.label for subject in named] == [f"file {kind}" for kind in FILE_KINDS]
    assert len({subject.files.source for subject in named}) == len(FILE_KINDS)
    ours.quantized("Q4_0")  # is there already
    assert (tmp_path / "log").read_text().splitlines() == [
        f"benchmarks.workers.quantize {kind}" for kind in FILE_KINDS
    ]


def test_no_quantized_files_without_llama_cpp(files: ModelFiles, tmp_path: Path) -> None:
    report = Report()
    bench: Any = SimpleNamespace(report=report)
    ours = replace(files, folder=tmp_path)  # our own environment has no llama.cpp
    assert subjects(bench, "random", ours, FILE) == []
    assert "file was left out: no quantized file (ModuleNotFoundError" in report.notes[0]
    assert not list(tmp_path.glob("*.gguf"))


def test_speed_is_a_median() -> None:
    times = [Times(2.0, [0.1, 0.2]), Times(4.0, [0.4]), Times(9.0, [])]
    assert speed("decode", Task(100, 16), times) == pytest.approx(5)
    assert speed("prefill", Task(520, keep=20), times) == 125


def test_rows_of_one_model(
    demo_model: Path,
    files: ModelFiles,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.measure.LONG_PROMPTS", (2000,))
    monkeypatch.setattr("benchmarks.measure.LOOKUP", Task(prompt=0, decode=20))
    report = Report()

    def take_turns(*turns):
        return MACHINE, [[side.run(task)] for side, task in turns]

    bench: Any = SimpleNamespace(report=report, threads=1, missing=set(), take_turns=take_turns)
    kinds = ("decode", "prefill", "lookup", "rows", "long", "turn", "memory")
    Subject(bench, "tiny", files, "int8").measure(kinds, ())
    firsts = ["decode", "prefill", "lookup,", "a", "decode", "first", "peak"]
    assert [row.what.split()[0] for row in report.rows] == firsts
    assert "a pass of" in report.rows[2].what
    assert "a pass of 8 rows costs" in report.rows[3].what
    assert "after 2,000" in report.rows[4].what
    assert all(row.ours and "none" not in row.ours for row in report.rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 7
    assert {line.count("|") for line in lines} == {8}


def test_a_peer_that_is_not_installed(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str, options: Options, python: str) -> Side:
        raise SideFailed("ModuleNotFoundError: No module named 'llama_cpp'")

    monkeypatch.setattr("benchmarks.measure.Side", fail)
    monkeypatch.setattr("benchmarks.measure.available_memory", lambda: 1 << 40)
    report = Report()
    bench: Any = SimpleNamespace(report=report, threads=1, missing=set(), python="python")
    subject = Subject(bench, "tiny", files, "float32")
    assert not subject._compare("llama.cpp", ANY, {"decode": Task(1, 1)})
    assert report.rows == []
    assert report.notes == [
        "llama.cpp was left out (ModuleNotFoundError: No module named 'llama_cpp')."
    ]


def test_a_peer_that_does_not_fit(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure.available_memory", lambda: 1 << 20)
    report = Report()
    bench: Any = SimpleNamespace(report=report, threads=1, missing=set(), python="python")
    subject = Subject(bench, "tiny", files, "float32")
    assert not subject._compare("OpenVINO", ANY, {"decode": Task(1, 1)})
    assert [row.what for row in report.rows] == ["against OpenVINO any"]
    assert "it takes up to 0.0 GB, and -0.3 are free" in report.rows[0].peer


def test_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.add(Row("7B", "int8", "decode", "8.5", "10", "0.85", "70%"))
    report.note("one")
    report.note("one")
    report.finish()
    assert capsys.readouterr().out.splitlines() == [
        "| model | precision | what | ours | peer | ratio | of the limit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 7B | int8 | decode | 8.5 | 10 | 0.85 | 70% |",
        "",
        "one",
    ]


def test_notes() -> None:
    samples = {"read": [2e10, 1e10, 1.5e10], "float32": [1e11], "bf16": [1e12], "int8": [2e12]}
    assert "read at 15 (20) GB/s" in machine_note(samples, 2)
    assert "1000 (1000) in bfloat16" in machine_note(samples, 2)
    assert "took 2% of the cores" in disturbance_note([0.5, 0.02, 0.0])
    assert [rate(value) for value in (0.1234, 12.34, 123.4)] == ["0.123", "12.3", "123"]


def test_lists_of_names() -> None:
    parse = some_of(("a", "b"))
    assert parse("b,a") == ("b", "a")
    assert parse("") == ()
    with pytest.raises(argparse.ArgumentTypeError, match="'c' is none of a, b"):
        parse("a,c")
