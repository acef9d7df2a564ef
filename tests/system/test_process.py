"""Settings of the process: the C allocator gives memory back and keeps it."""

import os
import subprocess
import sys

import pytest

from llama_cpu.system import process
from llama_cpu.weights.many_rows import packing_works


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")
@pytest.mark.slow
def test_freed_memory_is_given_back() -> None:
    """In a process of its own, as the heap is everyone's."""
    code = "import torch\nfrom llama_cpu.system.memory import memory_report\n"
    code += "from llama_cpu.system.process import give_back_memory\n"
    code += "tensors = [torch.ones(1 << 18) for _ in range(200)]\n"  # a MiB each
    code += "last = torch.ones(1 << 18)\ndel tensors\ngive_back_memory()\n"
    code += "before = memory_report().anonymous\n"
    code += "tensors = [torch.ones(1 << 18) for _ in range(200)]\n"
    code += "grown = memory_report().anonymous - before\n"
    code += "last = torch.ones(1 << 18)\ndel tensors\ngive_back_memory()\n"
    code += "print(grown >> 20, (memory_report().anonymous - before) >> 20)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, left = map(int, done.stdout.split())
    assert grown > 150 and left < 20


@pytest.mark.skipif(not packing_works(), reason="needs oneDNN")
def test_compiled_products_do_not_pile_up() -> None:
    """oneDNN compiles a product for every number of rows, more than half a megabyte each."""
    code = "from llama_cpu.system.process import prepare_for_torch\nprepare_for_torch()\n"
    code += "import torch\nfrom llama_cpu.system.memory import memory_report\n"
    code += "from llama_cpu.weights.float32_linear import PackedFloat32Linear\n"
    code += "linear = PackedFloat32Linear(torch.ones(960, 576))\n"
    code += "xs = torch.ones(512, 576)\n"
    code += "def multiply(counts): [linear(xs[:rows]) for rows in counts]\n"
    code += "multiply([512, *range(16, 116)])\nbefore = memory_report().anonymous\n"
    code += "multiply(range(116, 216))\nprint(memory_report().anonymous - before >> 20)"
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    ours = int(run(code, **dict.fromkeys(names)))
    users = int(run(code, **dict.fromkeys(names, "1024")))  # the user's own values are kept
    assert users > 30 and ours < users / 2


def run(code: str, **variables: str | None) -> str:
    """Run code in a process of its own, with environment variables set or (None) not set."""
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    environment |= {name: value for name, value in variables.items() if value is not None}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_what_only_glibc_has_does_nothing_elsewhere() -> None:
    assert process._c_library("no_such_function_of_any_c_library", 1) == 0


def test_an_older_c_library_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def refuse_much(function: str, *numbers: int) -> int:
        calls.append(numbers)
        return int(numbers[1] <= 256 << 20)

    monkeypatch.setattr(process, "_c_library", refuse_much)
    process.keep_freed_memory()
    assert [number for _, number in calls] == [1 << 30, 32 << 20, 256 << 20]
