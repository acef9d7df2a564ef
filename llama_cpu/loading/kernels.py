"""The kernels that a model needs, compiled while its weights are read."""

import threading
from collections.abc import Callable, Iterator, Sequence
from threading import Event as Flag
from typing import TYPE_CHECKING

from llama_cpu.errors import Cancelled
from llama_cpu.kernels import compiler
from llama_cpu.kernels.formats import FORMATS
from llama_cpu.kernels.linear import PRODUCT_ARGUMENTS, WIDEN_ARGUMENTS
from llama_cpu.model.fused import ATTENTION_ARGUMENTS, CACHES
from llama_cpu.weights.block_weight import BLOCK_BYTES, known_blocks

if TYPE_CHECKING:
    from llama_cpu.loading.plan import LoadPlan

_PASS = (("forward.lead", 7), ("forward.work", 3), ("forward.forward", 2))


def needed_kernels(plan: "LoadPlan") -> list[tuple[str, int]]:
    """Return the kernels of a planned model, each with its number of arguments.

    Those that loading itself waits for are first. Must be called before the model is loaded,
    because that releases the tensors.
    """
    if not plan.products.product.uses_kernels:
        return []
    return list(dict.fromkeys(_needed(plan)))


def _needed(plan: "LoadPlan") -> Iterator[tuple[str, int]]:
    operations = plan.precision.operations
    kind_of = operations.kind_of
    assert kind_of is not None
    matrices = {n: each for n, each in plan.checkpoint.tensors.items() if len(each.shape) == 2}
    kinds = {name: kind_of(name, stored) for name, stored in matrices.items()}
    for name, stored in matrices.items():
        known = known_blocks(stored)
        if kinds[name] in BLOCK_BYTES and (known is None or known.kind != kinds[name]):
            yield f"quantize.quantize_{kinds[name].lower()}", WIDEN_ARGUMENTS
    for kind in kinds.values():
        yield FORMATS[kind].multiply, PRODUCT_ARGUMENTS
        widen = FORMATS[kind].widen
        if operations.widens_by_kernels and widen is not None:
            yield widen, WIDEN_ARGUMENTS
    if plan.cache_dtype in CACHES:
        yield CACHES[plan.cache_dtype][0], ATTENTION_ARGUMENTS
    yield from _PASS


class Compilation:
    """Kernels that a thread compiles one after another, or loads if they are cached.

    It ends with the program, after the kernel that it is at: LLVM cannot be interrupted.
    """

    def __init__(self, kernels: Sequence[tuple[str, int]]) -> None:
        self._kernels, self._done = kernels, 0
        self._error: compiler.KernelError | None = None
        self._thread = threading.Thread(target=self._run, name="compile kernels")
        self._thread.start()

    def wait(self, on_wait: Callable[[str], None], stop: Flag) -> None:
        """Wait until all are ready, and say every moment what is waited for.

        Raises Cancelled once ``stop`` is set, KernelError if a kernel does not work.
        """
        self._thread.join(0.1)
        while self._thread.is_alive():
            if stop.is_set():
                raise Cancelled
            number = min(self._done + 1, len(self._kernels))
            on_wait(
                f"Compiling kernels for this processor (once), {number} of {len(self._kernels)}"
            )
            self._thread.join(0.1)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for name, arguments in self._kernels:
                if not threading.main_thread().is_alive():
                    return
                compiler.kernel(name, arguments)
                self._done += 1
        except compiler.KernelError as error:
            self._error = error
