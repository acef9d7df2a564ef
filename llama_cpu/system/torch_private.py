"""All calls to undocumented parts of PyTorch, each with the reason for it.

They may change with any release, so check this module first when upgrading PyTorch. The
``packing_works`` and ``int8_matmul_works`` functions in ``weights/`` try the operators before they
are used: if an operator or its processor instructions are missing, only the products that need it
become unavailable.
"""

import ctypes
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch
from torch import Tensor


def tensors_of(table: bytes, storage_start: Callable[[str, int], int]) -> object:
    """Return what the pickle of a ``torch.save`` file contains, with tensors that have no data.

    The unpickler is that of ``torch.load(weights_only=True)``, which calls nothing but torch's own
    constructors. ``torch.load`` itself, under FakeTensorMode, computes where a storage should be
    instead of reading it, and its logger prints tracebacks. ``storage_start(key, nbytes)`` is asked
    for the position of each storage, which ``position_in_file`` then returns.

    Raises anything that a damaged pickle makes the unpickler raise.
    """
    from torch import _weights_only_unpickler

    untyped, typed = torch.UntypedStorage, torch.TypedStorage

    def storage(saved: tuple[str, Any, str, str, int]) -> torch.TypedStorage:
        # torch.save: ("storage", type, key, device, number of elements)
        _, kind, key, _, count = saved
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        nbytes = count * dtype.itemsize
        start = storage_start(key, nbytes)
        empty = untyped(nbytes, device="meta")  # type: ignore[no-untyped-call]
        empty._checkpoint_offset = start
        return typed(wrap_storage=empty, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]

    unpickler: Any = _weights_only_unpickler.Unpickler(BytesIO(table), encoding="utf-8")
    unpickler.persistent_load = storage
    return unpickler.load()


def position_in_file(storage: torch.UntypedStorage) -> int:
    """Return the position of a storage that ``tensors_of`` made.

    torch.load keeps it in this attribute, too, for its documented example of reading single
    tensors. The storage of a tensor is the same Python object as when the tensor was made.
    """
    position = storage._checkpoint_offset
    assert position is not None
    return position


def rebuild_tensor() -> Callable[..., Tensor]:
    """Return the function that a ``torch.save`` file names for each tensor.

    The name is part of the file format: torch.load calls this function to rebuild each tensor.
    """
    rebuild: Callable[..., Tensor] = torch._utils._rebuild_tensor_v2
    return rebuild


def has_onednn() -> bool:
    """Return whether PyTorch was built with oneDNN, which the functions below call."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def pack_linear(weight: Tensor, rows: int) -> Tensor:
    """Pack a float32 or bfloat16 weight [out, in] in oneDNN's layout for inputs of ``rows`` rows.

    With unpacked weights, oneDNN and MKL rearrange the weight in every product. torch.compile's
    Inductor packs weights with this operator, but there is no public function for it. Raises
    RuntimeError for a bfloat16 weight if the processor has no bfloat16 instructions.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return packed


def packed_linear(x: Tensor, packed: Tensor) -> Tensor:
    """Multiply x [rows, in] by a packed weight: [rows, out], in the weight's dtype."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return product


def pack_int8_linear(values: Tensor) -> Tensor:
    """Pack int8 [out, in] for ``packed_int8_linear``, with an operator of torch.compile's Inductor.

    There is no public function for it.
    """
    packed: Tensor = torch.ops.onednn.qlinear_prepack(values, None)
    return packed


def packed_int8_linear(x: Tensor, packed: Tensor, scale: Tensor, zero_points: Tensor) -> Tensor:
    """Return float32 [rows, out]: (x - 128) times the packed weight, whose row i has ``scale[i]``.

    ``x``: uint8 [rows, in]. ``scale``: float32 [out]. ``zero_points``: int64 zeros [out]. The
    public quantised modules (torch.ao) require one fixed scale for the activations and cannot
    return float32.
    """
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 128, packed, scale, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Multiply int8 [rows, in] by int8 [in, out]: int32 [rows, out].

    ``torch.matmul`` multiplies integers in a plain loop, which is a hundred times slower.
    """
    return torch._int_mm(left, right)


def bf16_int8_matmul(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Multiply bfloat16 [rows, in] by int8 [out, in] times ``scale`` [out]: bfloat16 [rows, out].

    Reads the unpacked weight once. The operator works on whole blocks and crashes the process if
    ``in`` or ``out`` is not a multiple of 64. No public function multiplies these types.
    """
    return torch._weight_int8pack_mm(x, values, scale)


def packed_memory(packed: Tensor) -> Tensor | None:
    """Return a view of a packed weight's memory, int8 [bytes]; None if PyTorch gives no access.

    Writing oneDNN's layout directly packs int8 weights four times faster
    (``weights/int8_packing.py``), and there is no other access to an opaque tensor's memory.
    """
    if not hasattr(torch.ops.mkldnn, "data_ptr"):
        return None
    size = torch.ops.mkldnn._nbytes(packed)
    memory = (ctypes.c_int8 * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    memory.owner = packed  # keeps the packed weight alive as long as the view
    return torch.frombuffer(memory, dtype=torch.int8)
