"""How matrices of one format are read and multiplied: the part of a format that needs PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from llama_cpu.weights.linear import Linear, Weight

W = TypeVar("W", bound=Weight)  # a matrix [out, in] in memory, in the format's own type


class StoredMatrix(Protocol):
    """A matrix in a file; ``checkpoint.stored.StoredTensor`` is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype | None: ...

    def mapped(self) -> Tensor | None:
        """The tensor in place, without a copy; None where that is not possible."""

    def fill(self, target: Tensor) -> None:
        """Write all values into ``target``: same shape, any float type."""

    def rows(self, first: int, last: int) -> "StoredMatrix":
        """Rows [first, last), as a matrix of their own."""


# Makes an uninitialised tensor; raises UserError where the system has no memory for it.
NewTensor = Callable[[tuple[int, ...], torch.dtype], Tensor]


def always() -> bool:
    """``Product.works`` of a product that needs nothing but documented PyTorch."""
    return True


@dataclass(frozen=True)
class Product(Generic[W]):
    """One way to multiply by the matrices of a format."""

    name: str
    make: Callable[[W], Linear]
    in_place: bool  # multiplies the weight where it lies; otherwise by a copy in another layout
    widens: bool = False  # copies the weight to float32 before a product with several rows
    # Rows that take hardly longer than one, unless it was measured.
    rows_at_once: int = 1
    # Whether this processor can run it, and gets the right result.
    works: Callable[[], bool] = always


@dataclass(frozen=True)
class ProductChoice(Generic[W]):
    """The products that a model's matrices are multiplied by on this processor."""

    product: Product[W]  # of the layers
    in_place: Product[W]  # of matrices that must stay as they are: mapped, or a table of rows, too
    rows_at_once: int  # that take hardly longer than one in ``product``
    in_place_rows_at_once: int


@dataclass(frozen=True)
class FilePart:
    """One of the tensors that a file holds for a matrix of a quantised format."""

    suffix: str  # of its name, after the matrix's; "" for the values
    dtype: torch.dtype
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]  # of the part, from the matrix's
    fill: Callable[[Tensor, Tensor], None]  # from float32 rows, which are used up, to the part's
    # The part of a matrix that was quantised when its file was written; None for another matrix.
    stored: Callable[[object], object | None]


@dataclass(frozen=True)
class Operations(Generic[W]):
    """Everything about a format that works on tensors.

    ``products`` stand in the order of preference: without a measurement the first that works is
    taken, and a later one must be clearly faster. At least one of them is in place.
    """

    products: tuple[Product[W], ...]
    # The part of a stored matrix that can be multiplied where it lies in the file; None if none.
    mappable: Callable[[StoredMatrix], StoredMatrix | None]
    # A weight around the mapped values of that part.
    from_mapped: Callable[[StoredMatrix, Tensor, NewTensor], W]
    # Matrices below each other as one weight [sum of outs, in]. What the first call of NewTensor
    # returns may be overwritten once a product that is not in place was made of the weight.
    convert: Callable[[Sequence[StoredMatrix], NewTensor], W]
    # Which product the output matrix [vocab, dim] is for; ``tied``: it is the embedding, too.
    output_product: Callable[[ProductChoice[W], bool], Product[W]]
    make_output: Callable[[W, Product[W]], Linear]
    # In a file: the type of all that is not quantised, and the parts of each quantised matrix.
    file_dtype: torch.dtype
    file_parts: tuple[FilePart, ...] = ()


def product_named(operations: Operations[W], name: str) -> Product[W]:
    """Return the product of that name. Raises KeyError if there is none."""
    return {product.name: product for product in operations.products}[name]
