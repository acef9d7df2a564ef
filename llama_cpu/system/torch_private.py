"""All calls into parts of PyTorch that it does not document, each with the reason for it.

They may change with any release: whoever raises PyTorch's version starts here. None of them is
called before ``works`` functions in ``weights/`` have tried it, so that a missing operator or a
processor without the instructions makes a product unavailable and nothing else.
"""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def fake_tensors() -> AbstractContextManager[object]:
    """Return a context in which ``torch.load`` makes tensors without data.

    torch.load's documentation names FakeTensorMode for reading a file's table of contents, but the
    class lies in a private module.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def offset_in_file(storage: torch.UntypedStorage) -> int | None:
    """Return where in its file the storage of a fake tensor begins, in bytes.

    torch.load leaves it there for the documented example of reading single tensors; otherwise the
    zip's headers would have to be read once more. None for a storage that is not in the file.
    """
    offset = storage._checkpoint_offset
    return None if offset is None else int(offset)


def rebuild_tensor() -> Callable[..., Tensor]:
    """Return the function that a ``torch.save`` file names for each tensor.

    It is part of the file format: torch.load calls what stands under this name.
    """
    rebuild: Callable[..., Tensor] = torch._utils._rebuild_tensor_v2
    return rebuild


def has_onednn() -> bool:
    """Tell whether PyTorch was built with oneDNN, whose operators the functions below call."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def pack_linear(weight: Tensor, rows: int) -> Tensor:
    """Lay out a float32 or bfloat16 weight [out, in] as oneDNN multiplies ``rows`` rows fastest.

    Without it oneDNN and MKL rearrange the weight in each product; torch.compile's inductor packs
    weights with this operator, but there is no public function for it. Raises RuntimeError on a
    processor without instructions for bfloat16.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return packed


def packed_linear(x: Tensor, packed: Tensor) -> Tensor:
    """Multiply x [rows, in] by the weight of ``pack_linear``: [rows, out], in the weight's type."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return product


def pack_int8_linear(values: Tensor) -> Tensor:
    """Lay out int8 [out, in] for ``packed_int8_linear``. Inductor's operator, as above."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(values, None)
    return packed


def packed_int8_linear(x: Tensor, packed: Tensor, scale: Tensor, zero_points: Tensor) -> Tensor:
    """Multiply uint8 x - 128, [rows, in], by the packed weight times its rows' ``scale`` [out].

    Returns float32 [rows, out]. ``zero_points``: int64 zeros [out]. The public quantised modules
    (torch.ao) want one scale for all activations of a model and cannot return float32.
    """
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 128, packed, scale, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Multiply int8 [rows, in] by int8 [in, out]: int32 [rows, out].

    ``torch.matmul`` on integers is a plain loop, a hundred times slower.
    """
    return torch._int_mm(left, right)


def bf16_int8_matmul(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Multiply bfloat16 [rows, in] by int8 [out, in] times ``scale`` [out]: bfloat16 [rows, out].

    Reads the weight once, as it lies in a file. It works on whole blocks: where ``in`` or ``out``
    is no multiple of 64 it crashes the process. No public function multiplies these types.
    """
    return torch._weight_int8pack_mm(x, values, scale)


def packed_memory(packed: Tensor) -> Tensor | None:
    """Return the memory of a packed weight as int8 [bytes]; None where PyTorch does not tell it.

    Packing many int8 weights is four times faster by writing oneDNN's layout ourselves
    (``weights/int8_packing.py``), and an opaque tensor offers no other way in.
    """
    if not hasattr(torch.ops.mkldnn, "data_ptr"):
        return None
    size = torch.ops.mkldnn._nbytes(packed)
    memory = (ctypes.c_int8 * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    memory.owner = packed  # lives as long as any of these tensors
    return torch.frombuffer(memory, dtype=torch.int8)
