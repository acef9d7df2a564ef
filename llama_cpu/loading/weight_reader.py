"""Weights on their way from files into the products of a model: mapped, converted or packed."""

import math
from collections.abc import Callable
from threading import Event as Flag
from threading import Thread

import torch
from torch import Tensor

from llama_cpu.checkpoint import Checkpoint
from llama_cpu.checkpoint.int8 import Int8Tensor
from llama_cpu.checkpoint.stored import FileTensor, StoredTensor, in_row_chunks
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.weights.linear import (
    BiasedLinear,
    Linear,
    Output,
    SeparateLinears,
    Weight,
    make_linear,
    make_output,
)
from llama_cpu.weights.precision import Precision
from llama_cpu.weights.quantization import Int8Weight, quantize_rows

Progress = Callable[[int, int, str], None]  # bytes that are ready, of how many, and what comes next


class WeightReader:
    """Takes tensors out of a checkpoint, which is used up, and tells how far it is.

    What reads a tensor raises Cancelled once ``stop`` is set, UserError where a file is damaged.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        mmap: bool,
        packed: bool,
        total: int,
        on_progress: Progress,
        stop: Flag,
    ) -> None:
        """``mmap``: weights stay in the files where these have them in the precision's type.
        ``packed``: products have them in a layout of their own. ``total``: bytes of all weights,
        for ``on_progress``."""
        self._config, self._tensors = checkpoint.config, checkpoint.tensors
        self._precision, self._mmap, self._packed = precision, mmap, packed
        self._total, self._on_progress, self._stop = total, on_progress, stop
        self._passing = torch.empty(0)  # for a weight on its way to be packed, one at a time
        self.done = 0  # bytes of weights that are ready
        self.mapped = 0  # of those, read in place
        self._to_read_ahead: list[FileTensor] = []

    def norm(self, name: str) -> Tensor:
        return self._vector(name + ".weight")

    def _vector(self, name: str) -> Tensor:
        stored = self._take(name)
        norm = self._in_place(stored, torch.float32)
        if norm is None:
            norm = _empty(stored.shape, torch.float32)
            stored.fill(norm)
            self.done += norm.nbytes
        return norm

    def weight(self, name: str) -> Weight:
        """A table, of which rows are taken."""
        stored = self._take(name + ".weight")
        in_place = self._weight_in_place(stored)
        return self._converted([stored]) if in_place is None else in_place

    def output(self, tok_embeddings: Weight) -> Output:
        """The last product, with its own weight or that of the embedding."""
        if not self._config.tied_output:
            return make_output(self.weight("output"), self._packed)
        if self._packed and isinstance(tok_embeddings, Int8Weight):
            self.done += tok_embeddings.nbytes  # there as a table, too
        return make_output(tok_embeddings, self._packed)

    def linear(self, *names: str) -> Linear:
        """The product with these weights, stacked, and with their biases where there are any."""
        product = self._product(*names)
        biases = [self._vector(name + ".bias") for name in names if name + ".bias" in self._tensors]
        return BiasedLinear(product, torch.cat(biases)) if biases else product

    def _product(self, *names: str) -> Linear:
        """One product with all of these weights, or several where they are mapped: what need not
        be copied is not, and in a file they do not lie side by side."""
        stored = [self._take(name + ".weight") for name in names]
        in_place = [self._weight_in_place(tensor) for tensor in stored]
        if all(weight is None for weight in in_place):
            return make_linear(self._converted(stored, passing=self._packed), self._packed)
        weights = [
            self._converted([tensor]) if weight is None else weight
            for tensor, weight in zip(stored, in_place, strict=True)
        ]
        linears = [make_linear(weight, packed=False) for weight in weights]
        return linears[0] if len(linears) == 1 else SeparateLinears(linears)

    def _take(self, name: str) -> StoredTensor:
        if self._stop.is_set():
            raise Cancelled
        self._on_progress(self.done, self._total, name.removesuffix(".weight"))
        return self._tensors.pop(name)

    def _weight_in_place(self, stored: StoredTensor) -> Weight | None:
        values = self._in_place(_values(stored), self._precision.dtype)
        if values is not None and isinstance(stored, Int8Tensor):
            return Int8Weight(values, self._scale(stored))
        return values

    def _in_place(self, stored: StoredTensor, wanted: torch.dtype) -> Tensor | None:
        weight = _mapped(stored, wanted) if self._mmap else None
        if weight is not None:
            self.done += weight.nbytes
            self.mapped += weight.nbytes
            if isinstance(stored, FileTensor):
                self._to_read_ahead.append(stored)
        return weight

    def _scale(self, stored: Int8Tensor) -> Tensor:
        scale = _empty(stored.shape[:1], torch.float32)
        stored.read_scale(scale)
        self.done += scale.nbytes
        return scale

    def _converted(self, stored: list[StoredTensor], passing: bool = False) -> Weight:
        """Several weights below each other as one [sum of outs, in].

        ``passing``: in memory that the next such call takes again. New memory costs more time than
        what is written to it, as the system fills it with zeros first.
        """
        heights = [tensor.shape[0] for tensor in stored]
        shape = (sum(heights), stored[0].shape[1])
        dtype = self._precision.dtype
        values = self._passing_through(shape, dtype) if passing else _empty(shape, dtype)
        self.done += self._precision.nbytes(shape)
        pieces = values.split(heights)
        if self._precision is not Precision.INT8:
            for tensor, piece in zip(stored, pieces, strict=True):
                tensor.fill(piece)
            return values
        scale = _empty(shape[:1], torch.float32)
        for tensor, piece, piece_scale in zip(stored, pieces, scale.split(heights), strict=True):
            _quantize(tensor, piece, piece_scale)
        return Int8Weight(values, scale)

    def _passing_through(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape)
        if self._passing.numel() < count:
            self._passing = _empty((0,), dtype)  # not both at once
            self._passing = _empty((count,), dtype)
        return self._passing[:count].view(shape)

    def finish(self) -> None:
        """Mapped weights come from the disk while the user types, instead of one by one later."""
        self._on_progress(self._total, self._total, "")
        self._passing = torch.empty(0)
        tensors = sorted(self._to_read_ahead, key=lambda stored: (stored.file.path, stored.start))
        Thread(target=_read_ahead, args=(tensors,), name="read ahead", daemon=True).start()


def can_map(checkpoint: Checkpoint, precision: Precision) -> bool:
    """Whether any of its matrices lies in a file as it is wanted."""
    matrices = (tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2)
    return any(_mapped(_values(tensor), precision.dtype) is not None for tensor in matrices)


def _values(stored: StoredTensor) -> StoredTensor:
    return stored.values if isinstance(stored, Int8Tensor) else stored


def _mapped(stored: StoredTensor, wanted: torch.dtype) -> Tensor | None:
    return stored.mapped() if stored.dtype == wanted else None


def _read_ahead(tensors: list[FileTensor]) -> None:
    for tensor in tensors:
        tensor.read_ahead()


def _quantize(stored: StoredTensor, values: Tensor, scale: Tensor) -> None:
    """Read a matrix and quantise it chunk by chunk, so that it is never there in float32."""
    if isinstance(stored, Int8Tensor):  # was quantised when it was written
        stored.read(values, scale)
        return

    def quantize(first: int, last: int) -> None:
        rows = torch.empty(last - first, stored.shape[1])
        stored.rows(first, last).fill(rows)
        quantize_rows(rows, values[first:last], scale[first:last])

    in_row_chunks(stored.shape[0], 4 * stored.shape[1], quantize)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:  # only with --force; else the forecast has said so
        raise UserError(
            "The system has no memory for these weights; close other programs or take a smaller "
            "model."
        ) from error
