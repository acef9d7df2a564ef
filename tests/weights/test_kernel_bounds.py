"""Kernels read nothing beyond a matrix's last byte: a mapped file may end there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each matrix ends where readable memory ends; a read beyond it ends the process.
READING = """
import ctypes, mmap, sys
import gguf, torch
from llama_cpu.kernels.formats import FORMATS
from llama_cpu.kernels.linear import FewRows, KernelMatrix

libc, page = ctypes.CDLL(None), mmap.PAGESIZE
too_many = int(sys.argv[1])  # rows beyond the matrix's

def at_the_end(data):
    size = -(-len(data) // page) * page
    memory = torch.frombuffer(mmap.mmap(-1, size + page), dtype=torch.uint8)
    assert libc.mprotect(ctypes.c_void_p(memory.data_ptr() + size), page, 0) == 0
    memory[size - len(data) : size] = data
    return memory[size - len(data) : size]

sizes = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "INT8": (1, 1)}
for kind, kernels in FORMATS.items():
    block, size = sizes.get(kind) or gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    widths = (1, 31, 40, 100) if block == 1 else (block, 2 * block, 3 * block)
    for columns in widths:
        for out in (1, 2, 3):
            raw = torch.randint(0, 60, (out * columns // block * size,), dtype=torch.uint8)
            scales = torch.ones(out + too_many) if kind == "INT8" else None
            matrix = KernelMatrix(kind, at_the_end(raw), out + too_many, columns, scales)
            for rows in (1, 5):
                FewRows(matrix, 2)(torch.randn(rows, columns))
            if kernels.widen:
                matrix.widen(0, out + too_many, torch.empty(out + too_many, columns))
print("read")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("too_many", [0, 1])
def test_nothing_is_read_beyond_a_matrix(too_many: int) -> None:
    command = [sys.executable, "-c", READING, str(too_many)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if too_many:  # the test sees reads
        assert done.returncode < 0
    else:
        assert done.stdout == "read\n", done.stderr
