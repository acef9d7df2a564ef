"""Kernels compile for processors that are not here, to the instructions that they are meant to use.

The code is not run.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Prints the assembly of a kernel for another processor.
COMPILE = """
import sys
import llvmlite.binding as llvm

name, triple, cpu, *features = sys.argv[1:]
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()

class Features(dict):
    def flatten(self):
        return ",".join(f"+{feature}" for feature in self)

llvm.get_host_cpu_name = lambda: cpu
llvm.get_host_cpu_features = lambda: Features.fromkeys(features, True)
from llama_cpu.kernels import compiler

def machine():
    made = llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=Features.fromkeys(features).flatten(), opt=3, codemodel="small"
    )
    made.emit_object = lambda module: made.emit_assembly(module).encode()
    return made

compiler._define_symbols()
compiler._machine = machine
compiler._require_defined = lambda symbols: None
print(compiler._compile(name, 9).decode())
"""
AVX2 = ("avx", "avx2", "fma", "f16c")
LINUX_ON_ARM = "aarch64-unknown-linux-gnu"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("triple", "cpu", "features", "instruction"),
    [
        ("x86_64-unknown-linux-gnu", "alderlake", (*AVX2, "avxvnni"), "vpdpbusd"),
        (
            "x86_64-pc-windows-msvc",
            "znver4",
            (*AVX2, "avx512f", "avx512bw", "avx512vl", "avx512vnni"),
            "vpdpbusd",
        ),
        ("x86_64-unknown-linux-gnu", "x86-64-v2", ("ssse3", "sse4.1"), "pmul"),
        (LINUX_ON_ARM, "neoverse-n1", ("neon", "dotprod", "fullfp16"), "sdot"),
        ("arm64-apple-macosx", "apple-m1", ("neon", "dotprod", "fullfp16"), "sdot"),
        (LINUX_ON_ARM, "cortex-a72", ("neon",), "mla"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_kernel_compiles(
    triple: str, cpu: str, features: tuple[str, ...], instruction: str
) -> None:
    command = [sys.executable, "-c", COMPILE, "q4.multiply_1", triple, cpu, *features]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if "No available targets" in done.stderr:
        pytest.skip(f"this LLVM does not compile for {triple}")
    assert done.returncode == 0, done.stderr
    assert instruction in done.stdout
    assert "llama_cpu_q4_multiply_1" in done.stdout
