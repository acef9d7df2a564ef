"""The kernels of a model: which they are, waiting for them, their files, and those that fail."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from threading import Event as Flag

import llvmlite.binding as llvm
import pytest
import torch

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.kernels import compiler
from llama_cpu.kernels.compiler import Kernel, KernelError
from llama_cpu.kernels.linear import KernelMatrix
from llama_cpu.loading.kernels import Compilation, needed_kernels
from llama_cpu.loading.load import load
from llama_cpu.weights import kernel_linear
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.kernel_linear import KernelLinear, require_right
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, tiny_config, write_hugging_face
from tests.support.engine import make_plan
from tests.support.operators import FixedOperators

PASS = {"forward.lead", "forward.work", "forward.forward"}
PLAIN = FixedOperators(float32="plain", bf16="plain")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of random float32 weights whose rows are whole blocks of 32."""
    config = tiny_config()
    write_hugging_face(tmp_path, config, random_weights(config))
    return tmp_path


@pytest.fixture
def no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new program with an empty cache; returns the folder of the code."""
    folder = tmp_path / "kernels" / ("0" * 16)
    monkeypatch.setattr(compiler, "_kernels", {})
    monkeypatch.setattr(compiler, "_failures", {})
    monkeypatch.setattr(compiler, "_folder", lambda: folder)
    return folder


@pytest.mark.parametrize(
    ("precision", "own"),
    [
        (FLOAT32, {"float32.multiply", "attention.attend_f32"}),
        (BF16, {"bfloat16.multiply", "attention.attend_bf16"}),
        (
            INT4,
            {
                "quantize.quantize_q4_1",
                "quantize.quantize_q8_0",
                "q4.multiply_1",
                "q4.widen_1",
                "q8.multiply",
                "q8.widen",
                "attention.attend_bf16",
            },
        ),
    ],
)
def test_only_what_a_model_needs_is_compiled(
    model: Path, precision: WeightFormat, own: set[str]
) -> None:
    names = [name for name, _ in needed_kernels(make_plan(model, precision=precision))]
    assert set(names) == PASS | own
    assert len(names) == len(set(names))
    rounding = [name.startswith("quantize") for name in names]
    assert rounding == sorted(rounding, reverse=True)  # loading waits for these


def test_nothing_is_compiled_for_products_of_pytorch(model: Path) -> None:
    assert needed_kernels(make_plan(model, operators=PLAIN)) == []


class Slowly:
    """Stands for ``compiler.kernel``; returns once it is allowed to."""

    def __init__(self) -> None:
        self.allowed = threading.Event()

    def __call__(self, name: str, arguments: int) -> None:
        self.allowed.wait()


def test_waiting_says_which_kernel_it_is_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slowly, stop = Slowly(), Flag()
    monkeypatch.setattr(compiler, "kernel", slowly)
    said: list[str] = []

    def on_wait(text: str) -> None:
        said.append(text)
        stop.set()

    compilation = Compilation([("a.b", 1), ("a.c", 1)])
    try:
        with pytest.raises(Cancelled):
            compilation.wait(on_wait, stop)
        assert said == ["Compiling kernels for this processor (once), 1 of 2"]
    finally:
        slowly.allowed.set()
    compilation.wait(said.append, Flag())  # they were compiled nevertheless


def broken(name: str, arguments: int) -> Kernel:
    compiler._failures[name] = "no"
    raise KernelError("no")


def test_pytorch_computes_if_a_kernel_fails(
    model: Path, no_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(make_plan(model, operators=PLAIN), lambda *_: None, Flag())
    plan = make_plan(model)
    monkeypatch.setattr(compiler, "kernel", broken)
    with pytest.warns(UserWarning, match="Numba"):
        loaded = load(plan, lambda *_: None, Flag())
    assert loaded.model.few_tokens is None
    ids = [5, 6, 7]
    torch.testing.assert_close(
        loaded.model.forward(ids, loaded.cache), expected.model.forward(ids, expected.cache)
    )


def test_a_format_without_other_products_is_refused(
    model: Path, no_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(model, precision=INT4)
    monkeypatch.setattr(compiler, "kernel", broken)
    with pytest.raises(UserError):
        load(plan, lambda *_: None, Flag())


def test_a_product_that_is_wrong_is_not_used(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_linear, "_right", set())
    weight = torch.randn(4, 32)
    linear = KernelLinear(KernelMatrix("F32", weight, 4, 32), lambda x: x @ weight.T)
    linear.few = lambda x: 2 * (x @ weight.T)  # type: ignore[assignment]
    with pytest.raises(KernelError, match="wrong"):
        require_right([linear])
    with pytest.raises(KernelError, match="wrong"):
        compiler.kernel("float32.multiply", 9)
    assert not compiler.works()


def fake_code(name: str, arguments: int) -> bytes:
    """Compile a function in place of a kernel."""
    module = llvm.parse_assembly(
        f"declare ptr @memset(ptr, i32, i64)\ndefine void @{compiler._symbol(name)}(i64 %a) {{\n"
        "%p = inttoptr i64 %a to ptr\n%r = call ptr @memset(ptr %p, i32 7, i64 %a)\nret void\n}"
    )
    return bytes(compiler._machine().emit_object(module))


def test_a_damaged_file_is_written_anew(no_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_compile", fake_code)
    compiler.kernel("a.b", 1)
    file = no_kernels / "a.b.o"
    good = file.read_bytes()
    for bad in (b"", good[:-1], good[:40] + b"x" + good[41:]):
        file.write_bytes(bad)
        compiler._kernels.clear()
        compiler.kernel("a.b", 1)
        assert file.read_bytes() == good


def test_a_folder_that_cannot_be_written_costs_only_time(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_kernels.parent.write_text("a file")
    monkeypatch.setattr(compiler, "_compile", fake_code)
    compiler.kernel("a.b", 1)
    assert no_kernels.parent.read_text() == "a file"


def test_folders_of_old_versions_are_removed(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 1, 2):
        folder = no_kernels.parent / (str(number) * 16)
        folder.mkdir(parents=True)
        (folder / "a.b.o").write_bytes(b"")
        os.utime(folder, (number, number))
    (no_kernels.parent / "another").mkdir()
    monkeypatch.setattr(compiler, "_compile", fake_code)
    compiler.kernel("a.b", 1)
    left = {folder.name for folder in no_kernels.parent.iterdir()}
    assert left == {"0" * 16, "3" * 16, "another"}


def test_a_missing_symbol_is_an_error_and_not_the_end(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_with_it(name: str, arguments: int) -> bytes:
        module = llvm.parse_assembly(
            f"declare void @no_such_function()\ndefine void @{compiler._symbol(name)}(i64 %a) {{\n"
            "call void @no_such_function()\nret void\n}"
        )
        return bytes(compiler._machine().emit_object(module))

    monkeypatch.setattr(compiler, "_compile", compile_with_it)
    if sys.platform == "linux":  # elsewhere only what a module declares is known
        with pytest.raises(KernelError, match="no_such_function"):
            compiler.kernel("a.b", 1)
    with pytest.raises(OSError, match="no_such_function"):
        compiler._require_defined(["memset", "no_such_function"])


_START = """
import sys
from llama_cpu.kernels import compiler
assert compiler.works()
compiler.kernel("forward.work", 3)
print("numba" in sys.modules)
"""


def test_a_later_start_does_not_import_numba(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = [sys.executable, "-c", _START]
    starts = [subprocess.run(command, capture_output=True, text=True) for _ in range(2)]
    assert [start.stdout.strip() for start in starts] == ["True", "False"], starts
