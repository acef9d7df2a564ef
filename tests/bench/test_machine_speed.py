"""Measuring of the machine's speeds; no test asserts a speed."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from llama_cpu.bench import machine_speed
from llama_cpu.bench.machine_speed import FastestProduct, MemoryReader, fastest_products
from llama_cpu.kernels import compiler
from llama_cpu.kernels.compiler import Kernel, KernelError

SMALL = 1 << 20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROWS", "INNER", "COLUMNS", "_FEW_ROWS"):
        monkeypatch.setattr(machine_speed, name, 64)


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that works move forward by changing its only item."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_memory_is_read_in_the_fastest_way(threads: int) -> None:
    reader = MemoryReader(threads, SMALL)
    assert 0 < reader.nbytes <= SMALL
    assert reader.seconds_by_way.keys() >= {"numpy sum", "torch.mv"}
    assert reader.seconds_by_way[reader.way] == min(reader.seconds_by_way.values())
    assert reader() > 0
    assert reader.best() > 0


@pytest.mark.parametrize("name", ["read_in_order", "read_four_streams"])
def test_each_kernel_reads_every_byte_once(name: str) -> None:
    read = machine_speed._reading_kernels()[name]
    values = np.random.default_rng(0).integers(0, 100, 4096).astype(np.float32)
    assert read(values) == values.sum()


def test_memory_is_read_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, arguments: int) -> Kernel:
        raise KernelError("there is no compiler")

    monkeypatch.setattr(compiler, "kernel", missing)
    reader = MemoryReader(2, SMALL)
    assert reader.seconds_by_way.keys() == {"numpy sum", "torch.mv"}
    assert reader() > 0


def test_the_speed_is_bytes_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MemoryReader(1, SMALL)
    now = clock(monkeypatch)
    durations = iter([4.0, 2.0, 8.0])

    def work() -> None:
        now[0] += next(durations)

    reader._work = work
    assert reader.best() == reader.nbytes / 2


def test_products_in_every_type() -> None:
    products = fastest_products(2)
    assert products.keys() == {"float32", "bf16", "int8"}
    for product in products.values():
        assert product() > 0
    assert {"F.linear", "packed oneDNN"} >= products["bf16"].seconds_by_way.keys()
    assert "F.linear" in products["float32"].seconds_by_way


def test_the_fastest_operator_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)

    def taking(seconds: float) -> Any:
        def make(rows: int) -> Any:
            def work() -> None:
                now[0] += seconds

            return work

        return make

    def missing(rows: int) -> Any:
        raise RuntimeError("no such instructions")

    product = FastestProduct({"slow": taking(0.5), "missing": missing, "fast": taking(0.25)})
    assert product.way == "fast"
    assert product.seconds_by_way == {"slow": 0.5, "fast": 0.25}
    assert product() == 2 * 64**3 / 0.25


def test_slow_products_are_measured_with_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_speed, "ROWS", 1024)
    now, made = clock(monkeypatch), []

    def make(rows: int) -> Any:
        made.append(rows)

        def work() -> None:
            now[0] += rows / 100

        return work

    assert FastestProduct({"only": make})() == pytest.approx(2 * 64**3 / 0.64)
    assert made == [64, 64]


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("", None)])
def test_threads_of_numpy(
    variable: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", variable)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert machine_speed._numpy_threads() >= 1
    if threads is not None:
        assert machine_speed._numpy_threads() == threads
        assert "numpy" in machine_speed._float32_makers(threads)
        assert "numpy" not in machine_speed._float32_makers(threads + 1)


def test_importing_loads_neither_torch_nor_numba() -> None:
    code = "import sys, llama_cpu.bench.machine_speed; "
    code += "print({'torch', 'numba', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
