"""int8 weights as oneDNN's product wants them.

oneDNN itself goes value by value. Here whole blocks are copied, in a quarter of the time.
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
    """int8 [out, in], contiguous -> the same weight for ``torch.ops.onednn.qlinear_pointwise``.

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
    _pack(values, *_parts(packed, values))
    return packed


def _is_known(packed: Tensor, values: Tensor) -> bool:
    """Whether ``packed`` is what ``_pack`` makes of the values, and could not be it by chance."""
    out, in_ = values.shape
    in_blocks = out % _BLOCK == in_ % _BLOCK == 0
    can_be_read = hasattr(torch.ops.mkldnn, "data_ptr")  # PyTorch does not promise it
    if not in_blocks or not can_be_read:
        return False
    if torch.ops.mkldnn._nbytes(packed) != values.numel() + 4 * out:
        return False
    if len(values[:_BLOCK].unique()) < _BLOCK:  # a weight of zeros looks the same in any order
        return False
    blocks, sums = _parts(packed, values)
    expected, expected_sums = torch.empty(_BLOCK * in_, dtype=torch.int8), torch.empty_like(sums)
    for some, theirs, their_sums in zip(
        values.split(_BLOCK), blocks.split(_BLOCK * in_), expected_sums.split(_BLOCK), strict=True
    ):
        _pack(some, expected, their_sums)
        if not torch.equal(expected, theirs):
            return False
    return torch.equal(sums, expected_sums)


def _parts(packed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Its memory: the values, int8 [out * in], and what follows them, int32 [out]."""
    size = torch.ops.mkldnn._nbytes(packed)
    memory = (ctypes.c_int8 * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    memory.owner = packed  # is there as long as any of these tensors
    tensor = torch.frombuffer(memory, dtype=torch.int8)
    return tensor[: values.numel()], tensor[values.numel() :].view(torch.int32)


def _pack(values: Tensor, blocks: Tensor, sums: Tensor) -> None:
    """Write int8 [out, in] in blocks, and minus the sum of each row, which oneDNN multiplies by
    what stands for zero in the activations.

    oneDNN calls the layout BA16a64b4a, a being the columns (its developer guide, "Understanding
    Memory Formats"): blocks of 64 rows below each other, in each of these blocks of 64 columns, in
    each of these 16 times 4 columns of all 64 rows.
    """
    out, in_ = values.shape
    runs = values.view(torch.int32)  # [out, in / 4]: four values at a time
    grid = runs.view(out // _BLOCK, _BLOCK, in_ // _BLOCK, _BLOCK // _RUN)
    packed = blocks.view(torch.int32).view(out // _BLOCK, in_ // _BLOCK, _BLOCK // _RUN, _BLOCK)
    packed.copy_(grid.permute(0, 2, 3, 1))
    ones = torch.ones(in_, 8, dtype=torch.int8)  # a sum would take five times as long
    torch.neg(torch._int_mm(values, ones)[:, 0], out=sums)
