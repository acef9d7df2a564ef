"""Operations of a weight format: reading and multiplying matrices, the part that needs PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from llama_cpu.weights.linear import Linear, Weight

W = TypeVar("W", bound=Weight)  # a matrix [out, in] in memory, in the format's own type


class StoredMatrix(Protocol):
    """A matrix in a file, such as ``checkpoint.stored.StoredTensor``."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype | None: ...

    def mapped(self) -> Tensor | None:
        """Return the matrix memory-mapped, without a copy; None if that is not possible."""

    def fill(self, target: Tensor) -> None:
        """Write all values into ``target``, which has the same shape and any float dtype."""

    def rows(self, first: int, last: int) -> "StoredMatrix":
        """Return the rows [first, last) as a matrix."""


# Creates an uninitialised tensor; raises UserError if there is not enough memory.
NewTensor = Callable[[tuple[int, ...], torch.dtype], Tensor]


def always() -> bool:
    """``Product.works`` of a product that uses documented PyTorch functions only."""
    return True


@dataclass(frozen=True)
class Product(Generic[W]):
    """One implementation of the product with the matrices of a format."""

    name: str
    make: Callable[[W], Linear]
    in_place: bool  # whether it multiplies by the weight as stored; otherwise by a packed copy
    uses_kernels: bool = False  # whether ``kernels`` multiply a few rows
    widens: bool = False  # whether it copies the weight to float32 for a product of several rows
    # Name of the product that does the same for fewer than ``many_rows.MANY_ROWS``; "": none.
    few_rows_as: str = ""
    # Number of rows that take hardly longer than one; the default if it is not measured.
    rows_at_once: int = 1
    # Returns whether this processor can run the product and gets the right result.
    works: Callable[[], bool] = always


@dataclass(frozen=True)
class ProductChoice(Generic[W]):
    """The products chosen for a model's matrices on this processor."""

    product: Product[W]  # for the layers
    in_place: Product[W]  # for matrices that must not be repacked: mapped, or also used by row
    rows_at_once: int  # number of rows that take hardly longer than one with ``product``
    in_place_rows_at_once: int  # the same number with ``in_place``


@dataclass(frozen=True)
class FilePart:
    """One of the tensors that store a matrix of a quantised format in a file."""

    suffix: str  # appended to the matrix's name; "" for the values
    dtype: torch.dtype
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]  # shape of the matrix -> of the part
    # (float32 rows, part): overwrites both. One of a matrix's parts raises OverflowError for
    # numbers that the format cannot hold, such as infinity and NaN.
    fill: Callable[[Tensor, Tensor], None]
    # Returns this part of a matrix that is already stored quantised; None for other matrices.
    stored: Callable[[object], object | None]


def no_parts(name: str, shape: tuple[int, ...]) -> tuple[FilePart, ...]:
    """``Operations.parts_of`` of a format whose matrices are single tensors in files."""
    return ()


@dataclass(frozen=True)
class Operations(Generic[W]):
    """The operations of a format on tensors.

    ``products`` are in order of preference: without a measurement the first that works is chosen,
    and a later one must be clearly faster. At least one of them works in place.
    """

    products: tuple[Product[W], ...]
    # Returns the part of a stored matrix that can be multiplied memory-mapped; None if it cannot.
    mappable: Callable[[StoredMatrix], StoredMatrix | None]
    # Creates a weight from the mapped values of that part.
    from_mapped: Callable[[StoredMatrix, Tensor, NewTensor], W]
    # Reads matrices into one weight [sum of outs, in], one below the other. The tensor of the first
    # NewTensor call may be reused once a product that packs a copy was made from the weight.
    convert: Callable[[Sequence[StoredMatrix], NewTensor], W]
    # (choice, tied): returns the product for the output matrix [vocab, dim]. ``tied``: it is also
    # the embedding.
    output_product: Callable[[ProductChoice[W], bool], Product[W]]
    make_output: Callable[[W, Product[W]], Linear]
    # On disk: the dtype of tensors that are not quantised, and the parts of a matrix, given its
    # name and its shape.
    file_dtype: torch.dtype
    parts_of: Callable[[str, tuple[int, ...]], tuple[FilePart, ...]] = no_parts
    # The same as ``convert`` for the embedding and the output matrix, if these are kept otherwise.
    convert_table: Callable[[Sequence[StoredMatrix], NewTensor], W] | None = None
    # (name, matrix): returns the kind that a stored matrix will have in memory, a key of
    # ``kernels.formats.FORMATS``; None if no product uses kernels.
    kind_of: Callable[[str, StoredMatrix], str] | None = None
    # Whether kernels widen the matrices for many rows, and as embeddings.
    widens_by_kernels: bool = False
    # Whether matrices with the same input become one weight where they are converted.
    stacks: bool = True


def product_named(operations: Operations[W], name: str) -> Product[W]:
    """Return the product with this name. Raises KeyError if there is none."""
    return {product.name: product for product in operations.products}[name]
