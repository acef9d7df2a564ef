"""int8 weights packed here are those that oneDNN packs, byte for byte."""

import pytest
import torch
from torch import Tensor

from llama_cpu.transformer import packing
from llama_cpu.transformer.linear import int8_in_hardware
from llama_cpu.transformer.packing import pack_int8

pytestmark = pytest.mark.skipif(
    not int8_in_hardware(), reason="elsewhere int8 weights are not packed"
)

SHAPES = [(64, 64), (128, 576), (576, 192), (1024, 640)]


def weights(shape: tuple[int, int], count: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randint(-128, 128, shape, dtype=torch.int8) for _ in range(count)]


def products(packed: Tensor, shape: tuple[int, int]) -> Tensor:
    """With rows of bytes, 128 being zero; exact, as there are only integers."""
    out, in_ = shape
    torch.manual_seed(1)
    x = torch.randint(0, 256, (3, in_), dtype=torch.uint8)
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 128, packed, torch.ones(out), torch.zeros(out, dtype=torch.int64), None, 1.0, 0,
        torch.float32, "none", [], "",
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bytes_are_those_of_onednn(shape: tuple[int, int]) -> None:
    packed = [pack_int8(values) for values in weights(shape)]
    for ours, values in zip(packed, weights(shape), strict=True):
        theirs = torch.ops.onednn.qlinear_prepack(values, None)
        assert torch.equal(packing._memory(ours), packing._memory(theirs))


@pytest.mark.parametrize("shape", [*SHAPES, (100, 130), (64, 100), (96, 64)])
def test_products(shape: tuple[int, int]) -> None:
    packed = [pack_int8(values) for values in weights(shape)]
    torch.manual_seed(1)
    x = torch.randint(0, 256, (3, shape[1]), dtype=torch.uint8).int() - 128
    for ours, values in zip(packed, weights(shape), strict=True):
        assert torch.equal(products(ours, shape), (x @ values.int().T).float())


def test_a_layout_that_is_not_known_is_left_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_pack", lambda values, packed: packed.fill_(1))
    shape = (192, 64)
    for values in weights(shape):
        theirs = torch.ops.onednn.qlinear_prepack(values, None)
        assert torch.equal(products(pack_int8(values), shape), products(theirs, shape))
    assert shape not in packing._known


def test_a_pytorch_that_does_not_tell_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutAddresses:
        _nbytes = torch.ops.mkldnn._nbytes

    monkeypatch.setattr(torch.ops, "mkldnn", WithoutAddresses)
    shape = (64, 192)
    first, second = (pack_int8(values) for values in weights(shape, 2))
    assert not torch.equal(products(first, shape), products(second, shape))
    assert shape not in packing._known


def test_nothing_is_kept_once_the_weights_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_is_known", lambda packed, values: True)
    shape = (64, 320)
    packed = [pack_int8(values) for values in weights(shape)]
    assert shape in packing._known
    del packed
    assert shape not in packing._known
    again = pack_int8(weights(shape)[0])
    assert packing._known[shape] is again
