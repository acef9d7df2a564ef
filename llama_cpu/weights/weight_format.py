"""The interface of a weight format.

Importing this module, or that of a format, does not import PyTorch: the command line lists the
formats before PyTorch is needed. Everything that needs PyTorch is in ``WeightFormat.operations``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cpu.weights.tables import TABLES

if TYPE_CHECKING:
    import torch

    from llama_cpu.weights.operations import Operations, StoredMatrix


@dataclass(frozen=True, eq=False)
class WeightFormat:
    """How the matrices of a model are held in memory. Norms and biases are float32 in every format.

    ``label`` names the format in config.toml, on the screens and in the labels of stored KV caches.
    """

    label: str
    switch: str  # command-line switch of the chat and of completion
    help: str  # help text of ``switch``
    merge_switch: str  # command-line switch of merge_weights.py; "" if it cannot write the format
    merge_help: str  # help text of ``merge_switch``
    can_be_split: bool  # whether a matrix is a single tensor on disk, so that shards can split it
    matrix_bytes: Callable[[int, int], int]  # (rows, columns): bytes of a matrix
    cache_type: str  # dtype of the keys and values in the KV cache: the name of a torch.dtype
    load_operations: Callable[[], "Operations[Any]"]  # imports PyTorch
    # The same as ``matrix_bytes`` for TABLES, if these are kept otherwise.
    table_bytes: Callable[[int, int], int] | None = None
    # Returns the bytes of a stored matrix, if they depend on how it is stored.
    stored_bytes: Callable[["StoredMatrix"], int] | None = None

    @property
    def operations(self) -> "Operations[Any]":
        """The operations that read and multiply matrices of this format; imports PyTorch."""
        return self.load_operations()

    @property
    def cache_dtype(self) -> "torch.dtype":
        """The dtype of the keys and values in the KV cache."""
        import torch

        dtype = getattr(torch, self.cache_type)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def nbytes(
        self, shape: tuple[int, ...], name: str = "", stored: "StoredMatrix | None" = None
    ) -> int:
        """Return the size of a loaded tensor of this shape, in bytes.

        ``name`` and ``stored``, the tensor in its file, matter for some formats.
        """
        if len(shape) < 2:
            return 4 * math.prod(shape)
        if self.stored_bytes is not None and stored is not None:
            return self.stored_bytes(stored)
        rows, columns = shape
        if name in TABLES and self.table_bytes is not None:
            return self.table_bytes(rows, columns)
        return self.matrix_bytes(rows, columns)

    def __str__(self) -> str:
        return self.label
