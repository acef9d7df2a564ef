"""Compilation of kernels for this processor, and the cache of compiled code.

Numba translates a kernel to LLVM's intermediate language and optimises it. LLVM turns that into
machine code, which is kept in a file. Later starts load the file, which needs neither Numba's
compiler nor its import. The file's name depends on everything that the code depends on: the sources
of the kernels, the versions of Numba and LLVM, the processor and its features.
"""

import contextlib
import ctypes
import hashlib
import importlib
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    import llvmlite.binding as llvm
except (ImportError, OSError):  # there is none for this Python or processor
    llvm = None

from llama_cpu.errors import UserError
from llama_cpu.system import threads
from llama_cpu.system.paths import cache_folder

_KEPT_FOLDERS = 2  # of compiled code: that of this version, and of the one before
_PROBE = """
define void @llama_cpu_probe(i64 %address) {
  %place = inttoptr i64 %address to ptr
  store i64 42, ptr %place
  ret void
}
"""
# Held while a kernel is compiled or loaded. Two at once would take as long: Numba and Python's
# interpreter each have a lock of their own.
_lock = threading.Lock()


class KernelError(UserError):
    """A kernel that cannot be compiled or loaded here, or that computes wrong results."""


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


# "module.function" -> the kernel, or why there is none.
_kernels: dict[str, Kernel] = {}
_failures: dict[str, str] = {}
_engines: list[Any] = []  # own the code of the kernels, which is never freed


def kernel(name: str, arguments: int) -> Kernel:
    """Return the kernel ``module.function`` of this package, compiled if necessary.

    ``arguments``: their number. Raises KernelError.
    """
    with _lock:
        if name not in _kernels and name not in _failures:
            try:
                _kernels[name] = _load(_object(name, arguments), _symbol(name), arguments)
            except Exception as error:  # Numba and LLVM raise any
                _failures[name] = f"{type(error).__name__}: {str(error).strip()[:200]}"
        if name in _failures:
            raise KernelError(f"The kernel {name} does not work here ({_failures[name]}).")
        return _kernels[name]


def reject(name: str, reason: str) -> None:
    """Let every later call of ``kernel`` for this one raise KernelError."""
    with _lock:
        _failures[name] = reason


def works() -> bool:
    """Return whether code can be compiled and run here, as far as is known."""
    return not _failures and _probe()


@cache
def _probe() -> bool:
    """Return whether Numba is there and a function of two instructions can be compiled and run."""
    if llvm is None or find_spec("numba") is None:
        return False
    result = ctypes.c_int64()
    try:
        with _lock:
            code = bytes(_machine().emit_object(llvm.parse_assembly(_PROBE)))
            probe = _load(code, "llama_cpu_probe", 1)
    except (OSError, RuntimeError):  # the system allows no executable memory
        return False
    probe(ctypes.addressof(result))
    return result.value == 42


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
    if not file.parent.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_old(file.parent)
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as temporary:
            temporary.write(hashlib.sha256(code).digest() + code)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remove_old(newest: Path) -> None:
    """Remove the folders of other versions but for the latest of them.

    Another program that uses one has its kernels in memory; it compiles again what it needs later.
    """
    folders = [
        folder
        for folder in newest.parent.iterdir()
        if folder != newest and re.fullmatch("[0-9a-f]{16}", folder.name)
    ]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in folders[_KEPT_FOLDERS - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


def _compile(name: str, arguments: int) -> bytes:
    from llama_cpu.kernels.translation import translate

    _define_symbols()
    module_name, _, function_name = name.partition(".")
    python = getattr(importlib.import_module(f"llama_cpu.kernels.{module_name}"), function_name)
    source, body = translate(python, arguments)
    module = llvm.parse_assembly(source + _wrapper(_symbol(name), body, arguments))
    # Everything but the wrapper may now be inlined or dropped, above all Numba's exceptions, which
    # kernels do not raise: so the code needs nothing of Numba when it runs.
    for function in module.functions:
        if not function.is_declaration and function.name != _symbol(name):
            function.linkage = "internal"
    machine = _machine()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    declared = [each.name for each in module.functions if each.is_declaration]
    _require_defined(each for each in declared if not each.startswith("llvm."))
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


@cache
def _define_symbols() -> None:
    """Define the functions of the system that kernels call."""
    llvm.add_symbol("llama_cpu_yield", threads.yield_address())
    llvm.add_symbol("llama_cpu_sleep", threads.sleep_address())
    _engine()  # creating one lets LLVM find the functions of the C library


def _load(code: bytes, symbol: str, arguments: int) -> Kernel:
    _define_symbols()
    engine = _engine()
    file = llvm.ObjectFileRef.from_data(code)
    _require_defined(_undefined_symbols(file))
    engine.add_object_file(file)
    engine.finalize_object()
    _engines.append(engine)
    return Kernel(engine.get_function_address(symbol), arguments)


def _require_defined(symbols: Iterable[str]) -> None:
    """Raise OSError if a function is not defined, because LLVM would end the program for that."""
    missing = [symbol for symbol in symbols if llvm.address_of_symbol(symbol) is None]
    if missing:
        raise OSError(f"{', '.join(missing)} not found")


def _undefined_symbols(file: Any) -> list[str]:
    """Return the names of the symbols that an object file needs; none if it is not ELF.

    The tables are those of the "System V Application Binary Interface", Symbol Table, for 64 bits.
    LLVM may call functions, such as memset, that the module did not declare.
    """
    sections = {section.name(): section.data() for section in file.sections() if section.name()}
    names = sections.get(b".strtab", b"")
    symbols = struct.iter_unpack("<IBBHQQ", sections.get(b".symtab", b""))
    starts = [name for name, _, _, section, _, _ in symbols if name and section == 0]
    return [names[start : names.index(b"\0", start)].decode() for start in starts]


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
