"""Compilation of kernels for this processor, and the cache of compiled code.

Numba translates a kernel to LLVM's intermediate language and optimises it. LLVM turns that into
machine code, which is kept in a file. Later starts load the file, which needs neither Numba's
compiler nor its import. The file's name depends on everything that the code depends on: the sources
of the kernels, the versions of Numba and LLVM, the processor and its features.
"""

import contextlib
import ctypes
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llama_cpu.system import threads
from llama_cpu.system.paths import cache_folder

# Without it, this module can still be imported: ``weights.kernel_linear.kernels_work`` is false.
with contextlib.suppress(ImportError, OSError):
    import llvmlite.binding as llvm

_lock = threading.Lock()


class Kernel:
    """A compiled function of int64 arguments that returns nothing.

    It may be called from Python, which releases the interpreter's lock, or at ``address`` by other
    kernels.
    """

    def __init__(self, address: int, arguments: int) -> None:
        self.address = address
        self._call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)

    def __call__(self, *arguments: int) -> None:
        self._call(*arguments)


# "module.function" -> the kernel.
_kernels: dict[str, Kernel] = {}
_engines: list[Any] = []  # own the code of the kernels, which is never freed


def kernel(name: str, arguments: int) -> Kernel:
    """Return the kernel ``module.function`` of this package, compiled if necessary.

    ``arguments``: their number.
    """
    with _lock:
        if not _kernels:
            llvm.add_symbol("llama_cpu_yield", threads.yield_address())
            llvm.add_symbol("llama_cpu_sleep", threads.sleep_address())
        if name not in _kernels:
            _kernels[name] = _load(_object(name, arguments), name, arguments)
        return _kernels[name]


def _object(name: str, arguments: int) -> bytes:
    """Return the machine code, from the cache or compiled and, if possible, written to it."""
    file = _folder() / f"{name}.o"
    with contextlib.suppress(OSError):
        if data := _checked(file.read_bytes()):
            return data
    data = _compile(name, arguments)
    with contextlib.suppress(OSError):  # a read-only or full disk costs the next start its time
        _write(file, data)
    return data


def _checked(data: bytes) -> bytes | None:
    """Return the code without its checksum; None if the file is damaged."""
    digest, code = data[:32], data[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(file: Path, code: bytes) -> None:
    """Write the code so that other programs find all of the file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as temporary:
            temporary.write(hashlib.sha256(code).digest() + code)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _compile(name: str, arguments: int) -> bytes:
    import importlib

    import numba
    from numba import types

    module, _, function = name.partition(".")
    python: Callable[..., Any] = getattr(
        importlib.import_module(f"llama_cpu.kernels.{module}"), function
    )
    signature = types.void(*[types.int64] * arguments)
    settings: dict[str, Any] = {
        "error_model": "numpy",
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    dispatcher = numba.njit(signature, **settings)(getattr(python, "py_func", python))
    result: Any = next(iter(dispatcher.overloads.values()))
    wrapper = _wrapper(_symbol(name), result.fndesc.llvm_func_name, arguments)
    module = llvm.parse_assembly(result.library.get_llvm_str() + wrapper)
    # Everything but the wrapper may now be inlined or dropped, above all Numba's exceptions, which
    # kernels do not raise: so the code needs nothing of Numba when it runs.
    for function in module.functions:
        if not function.is_declaration and function.name != _symbol(name):
            function.linkage = "internal"
    machine = _machine()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def _wrapper(symbol: str, body: str, arguments: int) -> str:
    """Return a function in LLVM's language that has C's calling convention.

    It calls a function compiled by Numba, which also takes addresses for a result and an exception
    and returns whether there was one (Numba manual, "Numba architecture").
    """
    names = [f"i64 %a{index}" for index in range(arguments)]
    return f"""
define void @{symbol}({", ".join(names)}) {{
  %result = alloca ptr
  %exception = alloca ptr
  %status = call i32 @{body}({", ".join(["ptr %result", "ptr %exception", *names])})
  ret void
}}
"""


def _symbol(name: str) -> str:
    return "llama_cpu_" + name.replace(".", "_")


def _load(code: bytes, name: str, arguments: int) -> Kernel:
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return Kernel(engine.get_function_address(_symbol(name)), arguments)


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="default",
        codemodel="jitdefault",
        jit=True,
    )


def _engine() -> Any:
    """Return a new owner of machine code: kernels share names of internal symbols."""
    module = llvm.parse_assembly(f'target triple = "{llvm.get_process_triple()}"')
    return llvm.create_mcjit_compiler(module, _machine())


@cache
def _folder() -> Path:
    """Return the folder of the code for this processor and these versions."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    parts = [
        version("numba"),
        version("llvmlite"),
        sys.platform,
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    ]
    digest.update("\0".join(parts).encode())
    return cache_folder() / "kernels" / digest.hexdigest()[:16]
