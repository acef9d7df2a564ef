"""In which type a model's matrices are kept: the three precisions, and what each takes up."""

import math
from enum import Enum

import torch


class Precision(Enum):
    """Norms (one dimension) and all activations are float32 in each of them."""

    FLOAT32 = "float32"
    BF16 = "bf16"
    INT8 = "int8"  # with one float32 scale for each row

    @property
    def dtype(self) -> torch.dtype:
        """Type of a matrix's values."""
        return _DTYPES[self]

    @property
    def cache_dtype(self) -> torch.dtype:
        """Type of the KV cache's keys and values."""
        return torch.float32 if self is Precision.FLOAT32 else torch.bfloat16

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Memory of a tensor of this shape, once loaded."""
        if len(shape) < 2:
            return 4 * math.prod(shape)
        scales = 4 * shape[0] if self is Precision.INT8 else 0
        return math.prod(shape) * self.dtype.itemsize + scales


_DTYPES = {
    Precision.FLOAT32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.INT8: torch.int8,
}
