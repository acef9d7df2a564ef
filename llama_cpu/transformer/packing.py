"""int8 weights as oneDNN's product wants them.

oneDNN itself goes value by value, at 0.25 GB/s on two cores, which is half a minute for 7B. Here
whole blocks are copied, four times as fast.
"""

import ctypes
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_BLOCK = 64  # rows and columns
_RUN = 4  # values of a row that stay together

# By shape [out, in], a weight that oneDNN has packed the way that is known here.
_known: WeakValueDictionary[tuple[int, ...], Tensor] = WeakValueDictionary()


def pack_int8(values: Tensor) -> Tensor:
    """int8 [out, in] -> the same weight for ``torch.ops.onednn.qlinear_pointwise``.

    The first weight of each shape is packed by oneDNN. Where its bytes are those that ``_pack``
    gives, and only there, the next ones are packed by that, in copies of it. So a processor or a
    version for which oneDNN chooses another layout gets that one, only later.
    """
    shape = tuple(values.shape)
    known = _known.get(shape)
    if known is None:
        packed = torch.ops.onednn.qlinear_prepack(values, None)
        if _is_known(packed, values):
            _known[shape] = packed
        return packed
    packed = known.clone()
    _pack(values, _memory(packed))
    return packed


def _is_known(packed: Tensor, values: Tensor) -> bool:
    out, in_ = values.shape
    size = values.numel() + 4 * out
    in_blocks = out % _BLOCK == in_ % _BLOCK == 0
    can_be_read = hasattr(torch.ops.mkldnn, "data_ptr")  # PyTorch does not promise it
    if not in_blocks or not can_be_read or torch.ops.mkldnn._nbytes(packed) != size:
        return False
    expected = torch.empty(size, dtype=torch.int8)
    _pack(values, expected)
    return torch.equal(expected, _memory(packed))


def _memory(packed: Tensor) -> Tensor:
    """Its bytes, int8 [n], which are there as long as it is."""
    size = torch.ops.mkldnn._nbytes(packed)
    start = torch.ops.mkldnn.data_ptr(packed)
    return torch.frombuffer((ctypes.c_int8 * size).from_address(start), dtype=torch.int8)


def _pack(values: Tensor, packed: Tensor) -> None:
    """Write int8 [out, in] in blocks, then what 128 as the activations' zero adds to each sum.

    oneDNN calls the layout BA16a64b4a, a being the columns (its developer guide, "Understanding
    Memory Formats"): blocks of 64 rows below each other, in each of these blocks of 64 columns, in
    each of these 16 times 4 columns of all 64 rows.
    """
    out, in_ = values.shape
    runs = values.view(torch.int32)  # [out, in / 4]: four values at a time
    blocks = runs.view(out // _BLOCK, _BLOCK, in_ // _BLOCK, _BLOCK // _RUN)
    into = packed[: values.numel()].view(torch.int32)
    into.view(out // _BLOCK, in_ // _BLOCK, _BLOCK // _RUN, _BLOCK).copy_(
        blocks.permute(0, 2, 3, 1)
    )
    ones = torch.ones(in_, 8, dtype=torch.int8)  # a sum would take five times as long
    sums = torch._int_mm(values, ones)[:, 0]
    packed[values.numel() :].view(torch.int32).copy_(sums.neg_())
