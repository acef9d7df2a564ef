"""Packing of int8 weights in the layout of oneDNN's product.

oneDNN itself packs value by value. Copying whole blocks takes a quarter of the time.
"""

from weakref import WeakValueDictionary

import torch
from torch import Tensor

from llama_cpu.system import torch_private

_BLOCK = 64  # rows and columns
_RUN = 4  # adjacent values of a row that stay adjacent

# Shape [out, in] -> a weight packed by oneDNN in the same layout that ``_pack`` writes.
_known: WeakValueDictionary[tuple[int, ...], Tensor] = WeakValueDictionary()


def pack_int8(values: Tensor) -> Tensor:
    """Pack int8 [out, in], contiguous, for ``torch_private.packed_int8_linear``.

    oneDNN packs the first weight of each shape. If the result equals that of ``_pack`` byte for
    byte, ``_pack`` packs the following weights into copies of the first. Otherwise (oneDNN uses
    another layout on this processor or in this version) oneDNN packs all weights, which takes
    longer.
    """
    shape = tuple(values.shape)
    known = _known.get(shape)
    if known is None:
        packed = torch_private.pack_int8_linear(values)
        if _is_known(packed, values):
            _known[shape] = packed
        return packed
    packed = known.clone()
    parts = _parts(packed, values)
    assert parts is not None  # the first weight's memory could be read
    _pack(values, *parts)
    return packed


def _is_known(packed: Tensor, values: Tensor) -> bool:
    """Return whether ``_pack`` writes the same bytes as ``packed`` for varied enough values."""
    out, in_ = values.shape
    if out % _BLOCK or in_ % _BLOCK:
        return False
    if len(torch.unique(values[:_BLOCK])) < _BLOCK:  # a weight of zeros looks the same in any order
        return False
    parts = _parts(packed, values)
    if parts is None:
        return False
    blocks, sums = parts
    expected, expected_sums = torch.empty(_BLOCK * in_, dtype=torch.int8), torch.empty_like(sums)
    for some, theirs, their_sums in zip(
        torch.split(values, _BLOCK),
        torch.split(blocks, _BLOCK * in_),
        torch.split(expected_sums, _BLOCK),
        strict=True,
    ):
        _pack(some, expected, their_sums)
        if not torch.equal(expected, theirs):
            return False
    return torch.equal(sums, expected_sums)


def _parts(packed: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
    """Split packed memory into the values, int8 [out * in], and the sums after them, int32 [out].

    Returns None if the memory cannot be read or has another size.
    """
    memory = torch_private.packed_memory(packed)
    if memory is None or len(memory) != values.numel() + 4 * values.shape[0]:
        return None
    return memory[: values.numel()], memory[values.numel() :].view(torch.int32)


def _pack(values: Tensor, blocks: Tensor, sums: Tensor) -> None:
    """Write int8 ``values`` [out, in] in blocks, and the negated sum of each row.

    oneDNN multiplies the sums by the zero point of the activations. It calls the layout BA16a64b4a,
    where a are the columns (oneDNN developer guide, "Understanding Memory Formats"). The matrix is
    divided into blocks of 64 rows, and these into blocks of 64 columns. Each block consists of 16
    groups of 4 columns; a group holds its 4 columns of all 64 rows, row by row.
    """
    out, in_ = values.shape
    runs = values.view(torch.int32)  # [out, in / 4]: four values at a time
    grid = runs.view(out // _BLOCK, _BLOCK, in_ // _BLOCK, _BLOCK // _RUN)
    packed = blocks.view(torch.int32).view(out // _BLOCK, in_ // _BLOCK, _BLOCK // _RUN, _BLOCK)
    packed.copy_(grid.permute(0, 2, 3, 1))
    ones = torch.ones(in_, 8, dtype=torch.int8)  # torch.sum would take five times as long
    torch.neg(torch_private.int8_matmul(values, ones)[:, 0], out=sums)
