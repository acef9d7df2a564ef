"""Settings of the process: the C allocator gives memory back and keeps it."""

import subprocess
import sys

import pytest

from llama_cpu.system import process


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
