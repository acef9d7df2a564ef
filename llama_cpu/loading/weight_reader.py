"""Reading of a model's weights from files into products: mapped, converted or packed."""

import math
from collections.abc import Callable, Sequence
from threading import Event as Flag
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from llama_cpu.checkpoint import Checkpoint
from llama_cpu.checkpoint.stored import FileTensor, StoredTensor
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.weights.linear import BiasedLinear, Linear, Output, SeparateLinears, Weight
from llama_cpu.weights.operations import NewTensor, ProductChoice, StoredMatrix
from llama_cpu.weights.weight_format import WeightFormat

Progress = Callable[[int, int, str], None]  # (bytes done, bytes in total, name of the next tensor)


Convert = Callable[[Sequence[StoredMatrix], NewTensor], Weight]


class WeightReader:
    """Reads a checkpoint's tensors for an architecture and reports progress.

    A tensor can be read repeatedly until ``release`` drops it. All methods that read tensors raise
    Cancelled once ``stop`` is set, and UserError if a file is damaged.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: WeightFormat,
        products: ProductChoice[Any],
        mmap: bool,
        total: int,
        on_progress: Progress,
        stop: Flag,
    ) -> None:
        """``mmap``: whether to map weights that are stored in this format.

        In that case ``products`` must be in place. ``total``: bytes of all weights, for
        ``on_progress``.
        """
        self._config, self._tensors = checkpoint.config, checkpoint.tensors
        self._format, self._operations = precision, precision.operations
        self._products, self._mmap = products, mmap
        self._total, self._on_progress, self._stop = total, on_progress, stop
        self._passing = _PassingMemory()
        self.done = 0  # bytes of weights that are ready
        self.mapped = 0  # the part of ``done`` that is memory-mapped
        self._to_read_ahead: list[FileTensor] = []

    def norm(self, name: str) -> Tensor:
        """Return the weight of a norm in float32, mapped or copied."""
        return self._vector(name + ".weight")

    def weight(self, name: str) -> Weight:
        """Return a matrix as a table whose rows are looked up."""
        stored = self._find(name + ".weight")
        in_place = self._in_place(stored)
        convert = self._operations.convert_table or self._operations.convert
        return self._converted([stored], convert) if in_place is None else in_place

    def output(self, tok_embeddings: Weight) -> Output:
        """Return the output product, with its own weight or, if tied, that of the embedding."""
        tied = self._config.tied_output
        product = self._operations.output_product(self._products, tied)
        weight = tok_embeddings if tied else self.weight("output")
        if tied and not product.in_place:
            self.done += tok_embeddings.nbytes  # the packed copy beside the embedding table
        return self._operations.make_output(weight, product)

    def linear(self, *names: str) -> Linear:
        """Return the stacked product with these matrices, with their biases if they have any."""
        product = self._product(*names)
        biases = [self._vector(name + ".bias") for name in names if name + ".bias" in self._tensors]
        return BiasedLinear(product, torch.cat(biases)) if biases else product

    def _product(self, *names: str) -> Linear:
        """Return one stacked product; separate ones if mapped, as files do not stack matrices."""
        stored = [self._find(name + ".weight") for name in names]
        in_place = [self._in_place(tensor) for tensor in stored]
        convert = self._operations.convert
        if self._operations.stacks and all(weight is None for weight in in_place):
            product = self._products.product
            return product.make(self._converted(stored, convert, passing=not product.in_place))
        weights = [
            self._converted([tensor], convert) if weight is None else weight
            for tensor, weight in zip(stored, in_place, strict=True)
        ]
        linears = [self._products.in_place.make(weight) for weight in weights]
        return linears[0] if len(linears) == 1 else SeparateLinears(linears)

    def release(self, prefix: str) -> None:
        """Drop the tensors whose names begin with ``prefix``, and any memory that they use."""
        for name in [name for name in self._tensors if name.startswith(prefix)]:
            del self._tensors[name]

    def finish(self) -> None:
        """Release all tensors, and read mapped weights ahead in the background."""
        self._on_progress(self._total, self._total, "")
        self.release("")
        self._passing = _PassingMemory()
        tensors = sorted(self._to_read_ahead, key=lambda stored: (stored.file.path, stored.start))
        Thread(target=_read_ahead, args=(tensors,), name="read ahead", daemon=True).start()

    def _find(self, name: str) -> StoredTensor:
        if self._stop.is_set():
            raise Cancelled
        self._on_progress(self.done, self._total, name.removesuffix(".weight"))
        return self._tensors[name]

    def _vector(self, name: str) -> Tensor:
        stored = self._find(name)
        mapped = stored.mapped() if self._mmap and stored.dtype == torch.float32 else None
        if mapped is not None:
            self._note_mapped(stored, mapped)
            self.done += mapped.nbytes
            return mapped
        vector = new_tensor(stored.shape, torch.float32)
        stored.fill(vector)
        self.done += vector.nbytes
        return vector

    def _in_place(self, stored: StoredTensor) -> Weight | None:
        part = self._operations.mappable(stored) if self._mmap else None
        values = part.mapped() if part is not None else None
        if part is None or values is None:
            return None
        self._note_mapped(part, values)
        weight: Weight = self._operations.from_mapped(stored, values, new_tensor)
        self.done += weight.nbytes
        return weight

    def _note_mapped(self, stored: StoredMatrix, values: Tensor) -> None:
        self.mapped += values.nbytes
        if isinstance(stored, FileTensor):
            self._to_read_ahead.append(stored)

    def _converted(
        self, stored: list[StoredTensor], convert: Convert, passing: bool = False
    ) -> Weight:
        """Convert matrices to one weight [sum of outs, in]; ``passing``: in reused memory."""
        new = self._passing.start() if passing else new_tensor
        weight = convert(stored, new)
        self.done += weight.nbytes
        return weight


class _PassingMemory:
    """A buffer for one weight at a time that is converted before it is packed.

    Reusing memory is faster: the system fills new memory with zeros, which takes longer than
    writing the weight.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._is_taken = False

    def start(self) -> Callable[[tuple[int, ...], torch.dtype], Tensor]:
        """Return a function whose first tensor reuses the memory of the previous weight."""
        self._is_taken = False
        return self._new

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._is_taken:
            return new_tensor(shape, dtype)
        self._is_taken = True
        size = math.prod(shape) * dtype.itemsize
        if len(self._memory) < size:
            self._memory = torch.empty(0, dtype=torch.uint8)  # free the old buffer first
            self._memory = new_tensor((size,), torch.uint8)
        return self._memory[:size].view(dtype).view(shape)


def can_map(checkpoint: Checkpoint, precision: WeightFormat) -> bool:
    """Return whether any matrix is stored in this format and can be mapped."""
    matrices = (tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2)
    return any(precision.operations.mappable(tensor) is not None for tensor in matrices)


def _read_ahead(tensors: list[FileTensor]) -> None:
    for tensor in tensors:
        tensor.read_ahead()


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Create an uninitialised tensor. Raises UserError if there is not enough memory."""
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:  # only with --force; check_fits refuses it otherwise
        raise UserError(
            "There is not enough memory for these weights; close other programs or take a smaller "
            "model."
        ) from error
