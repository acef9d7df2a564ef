"""Numba's translation of a function to LLVM's language, without the code that Numba would make.

Numba optimises every function by itself, then with all that it calls, and emits machine code each
time. A kernel needs none of that: ``compiler.py`` optimises and emits the whole of it once, which
takes half the time. Only Numba's methods that do this work are replaced here. If another version
does not call them, it does the work in vain, and the kernel is the same.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba import types
from numba.core import codegen
from numba.core.registry import cpu_target


class _Library(codegen.JITCodeLibrary):
    """The code of a function and of those that it calls, as translated."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_specific(self) -> None:
        pass

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: there is no machine code that could be called from Python."""
        self._ensure_finalized()
        return 0


class _Codegen(codegen.JITCPUCodegen):
    """Makes no machine code."""

    _library_class = _Library

    def _add_module(self, module: Any) -> None:
        pass

    def set_env(self, env_name: str, env: Any) -> None:
        pass


@cache
def _use_codegen() -> None:
    """Let Numba translate only. Nothing else in this program uses Numba."""
    cpu_target.target_context._internal_codegen = _Codegen("kernels")


def translate(function: Callable[..., Any], arguments: int) -> tuple[str, str]:
    """Return a module in LLVM's language, and the function's name in it.

    ``function``: Python, of so many int64 ``arguments``; it returns nothing.
    """
    _use_codegen()
    signature = types.void(*[types.int64] * arguments)
    settings: dict[str, Any] = {
        "error_model": "numpy",
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    dispatcher = numba.njit(signature, **settings)(getattr(function, "py_func", function))
    results: Any = dispatcher.overloads
    (result,) = results.values()
    return result.library.get_llvm_str(), result.fndesc.llvm_func_name
