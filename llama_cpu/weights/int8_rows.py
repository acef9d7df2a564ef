"""Int8 matrices with one scale per row."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Int8Weight:
    """A matrix whose row i is ``values[i] * scale[i]``: int8 [out, in] and float32 [out]."""

    values: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def take_rows(self, ids: Tensor) -> Tensor:
        """Return the rows ``ids`` as float32 [len(ids), in]."""
        return self.values[ids].float().mul_(self.scale[ids].unsqueeze(1))


def quantize_rows(rows: Tensor, values: Tensor, scale: Tensor) -> None:
    """Quantise float32 ``rows`` [..., in] to int8 ``values`` [..., in] and ``scale`` [...].

    The quantisation is symmetric: the largest magnitude of each row becomes 127 (Dettmers et al.,
    arXiv:2208.07339, section 2). ``rows`` is overwritten.
    """
    scale_rows(rows, scale)
    # A row of zeros has the scale 0 and must not be divided by it.
    values.copy_(rows.div_(scale.clamp(min=1e-30).unsqueeze(-1)).round_())


def scale_rows(rows: Tensor, scale: Tensor) -> None:
    """Write the ``scale`` [...] with which ``quantize_rows`` quantises ``rows`` [..., in]."""
    # abs would copy the rows, and aminmax would take five times as long.
    greatest = torch.maximum(rows.amax(dim=-1), -rows.amin(dim=-1))
    torch.div(greatest, 127, out=scale)
