"""Matrices as compiled products read them, and the product with one of them alone."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from llama_cpu.kernels import compiler, layout
from llama_cpu.kernels.formats import FORMATS
from llama_cpu.kernels.memory import Table, aligned
from llama_cpu.kernels.team import team

PRODUCT_ARGUMENTS, WIDEN_ARGUMENTS = 9, 5
# A piece of work is about as long as a core takes for this many bytes: some microseconds, so that
# taking it costs nothing, and no thread waits long for the last one.
_PIECE_BYTES = 48 << 10
_PIECES_PER_THREAD = 4


@dataclass(frozen=True)
class KernelMatrix:
    """A matrix [out, columns] in memory; ``kind`` is its key in ``kernels.formats.FORMATS``."""

    kind: str
    values: Tensor  # contiguous
    out: int
    columns: int
    scales: Tensor | None = None  # float32 [out], of INT8
    _table: Table | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.scales is not None:
            table = Table(2)
            table[0], table[1] = self.values.data_ptr(), self.scales.data_ptr()
            object.__setattr__(self, "_table", table)

    @property
    def address(self) -> int:
        """The argument ``weight`` of the compiled product."""
        return self.values.data_ptr() if self._table is None else self._table.address

    def widen(self, first: int, last: int, target: Tensor) -> None:
        """Write the rows [first, last) to ``target``, contiguous float32 [last - first, columns].

        All of PyTorch's threads take part.
        """
        name = FORMATS[self.kind].widen
        if name is None:
            target.copy_(self.values.view(self.out, self.columns)[first:last])
            return
        function = compiler.kernel(name, WIDEN_ARGUMENTS)
        in_threads(
            first,
            last,
            lambda start, end: function(
                self.address, target[start - first].data_ptr(), start, end, self.columns
            ),
        )


def quantize(kind: str, rows: Tensor, blocks: Tensor, threads: int | None = None) -> None:
    """Round contiguous float32 ``rows`` [n, columns] to blocks, uint8 [n, bytes of a row].

    ``kind``: "Q4_1" or "Q8_0". ``threads`` None: as many as PyTorch has.
    """
    function = compiler.kernel(f"quantize.quantize_{kind.lower()}", WIDEN_ARGUMENTS)
    columns, source, target = rows.shape[1], rows.data_ptr(), blocks.data_ptr()
    in_threads(
        0, len(rows), lambda start, end: function(source, target, start, end, columns), threads
    )


def in_threads(
    first: int, last: int, work: Callable[[int, int], None], threads: int | None = None
) -> None:
    """Call ``work(start, end)`` for parts of a range; ``threads`` None: as many as PyTorch has."""
    threads = threads or torch.get_num_threads()
    if threads == 1:
        work(first, last)
        return
    step = max(1, math.ceil((last - first) / threads))
    starts = range(first, last, step)
    list(_workers(threads).map(lambda start: work(start, min(start + step, last)), starts))


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="widen")


def fill_linear(
    table: Table, start: int, parts: Sequence[tuple[KernelMatrix, Tensor | None]], threads: int
) -> None:
    """Write the fields of a product of one input with matrices and their biases, float32 [out].

    ``start``: index of the first field.
    """
    table[start + layout.PARTS] = len(parts)
    table[start + layout.ROUNDS] = any(FORMATS[each.kind].rounds_inputs for each, _ in parts)
    table[start + layout.COLUMNS] = parts[0][0].columns
    table[start + layout.OUTS] = sum(matrix.out for matrix, _ in parts)
    for index, (matrix, bias) in enumerate(parts):
        fields = start + layout.PART + index * layout.PART_FIELDS
        row_bytes = max(1, matrix.values.nbytes // matrix.out)
        few = math.ceil(matrix.out / (_PIECES_PER_THREAD * threads))
        size = max(2, min(_PIECE_BYTES // row_bytes, few) // 2 * 2)
        product = compiler.kernel(FORMATS[matrix.kind].multiply, PRODUCT_ARGUMENTS)
        table[fields + layout.FUNCTION] = product.address
        table[fields + layout.WEIGHT] = matrix.address
        table[fields + layout.OUT] = matrix.out
        table[fields + layout.PIECE] = size
        table[fields + layout.PIECES] = math.ceil(matrix.out / size)
        table[fields + layout.BIAS] = 0 if bias is None else bias.data_ptr()


class FewRows:
    """The compiled product of up to MOST_ROWS rows with one matrix."""

    def __init__(self, matrix: KernelMatrix, threads: int) -> None:
        self._matrix = matrix
        self._team = team(threads)
        size = (layout.MOST_ROWS + 1) * prepared_bytes(matrix.columns)
        self._private, self._eps = aligned(threads * size), torch.zeros(1)
        self.table, self.stages = Table(layout.MODEL_FIELDS), 3
        self.table[layout.DIM] = matrix.columns
        self.table[layout.EPS] = self._eps.data_ptr()
        self.table[layout.PRIVATE] = self._private.data_ptr()
        self.table[layout.PRIVATE_BYTES] = size
        fill_linear(self.table, layout.OUTPUT, [(matrix, None)], threads)

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [rows, columns] -> float32 [rows, out]."""
        output = torch.empty(x.shape[0], self._matrix.out)
        self._team.run(self, 0, x.contiguous(), output)
        return output


def prepared_bytes(columns: int) -> int:
    """Return the size of a prepared input (``inputs.input_bytes``): a multiple of 64."""
    return 8 * (-(-columns // 256) * 256)
