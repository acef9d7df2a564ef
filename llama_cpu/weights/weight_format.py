"""What the rest of the program may ask about a weight format.

Importing this module, or a format's own, does not import PyTorch: the command line lists the
formats before PyTorch is needed. What needs it stands behind ``WeightFormat.operations``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from llama_cpu.weights.operations import Operations


@dataclass(frozen=True, eq=False)
class WeightFormat:
    """How a model's matrices are kept in memory. Norms, biases and activations are float32 in each.

    ``label`` names the format in config.toml, on the screens and in the labels of stored KV caches.
    """

    label: str
    switch: str  # of the chat and of completion
    help: str
    merge_switch: str  # of merge_weights.py
    merge_help: str
    can_be_split: bool  # whether each matrix is a single tensor in a file, which shards can share
    matrix_bytes: Callable[[int, int], int]  # of a matrix with so many rows and columns
    cache_type: str  # of the KV cache's keys and values: the name of a torch.dtype
    load_operations: Callable[[], "Operations[Any]"]  # imports PyTorch

    @property
    def operations(self) -> "Operations[Any]":
        """How matrices of this format are read and multiplied."""
        return self.load_operations()

    @property
    def cache_dtype(self) -> "torch.dtype":
        """Type of the KV cache's keys and values."""
        import torch

        dtype = getattr(torch, self.cache_type)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Return the memory that a tensor of this shape takes once it is loaded."""
        if len(shape) < 2:
            return 4 * math.prod(shape)
        rows, columns = shape
        return self.matrix_bytes(rows, columns)

    def __str__(self) -> str:
        return self.label
