"""int8 weights packed here are those that oneDNN packs, byte for byte."""

import pytest
import torch
from torch import Tensor

from llama_cpu.system import torch_private
from llama_cpu.weights import int8_packing as packing
from llama_cpu.weights.int8_linear import packing_works
from llama_cpu.weights.int8_packing import pack_int8

pytestmark = pytest.mark.skipif(not packing_works(), reason="elsewhere int8 weights are not packed")
has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
knows_the_layout = pytest.mark.skipif(
    not has_amx(), reason="oneDNN may choose another layout without AMX"
)

SHAPES = [(64, 64), (128, 576), (576, 192), (1024, 640)]


def weights(shape: tuple[int, int], count: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randint(-128, 128, shape, dtype=torch.int8) for _ in range(count)]


def parts(packed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    found = packing._parts(packed, values)
    assert found is not None
    return found


def assert_gives_exact_products(packed: Tensor, values: Tensor) -> None:
    """With rows of bytes, 128 being zero: there are only integers."""
    out, in_ = values.shape
    torch.manual_seed(1)
    x = torch.randint(0, 256, (3, in_), dtype=torch.uint8)
    zeros = torch.zeros(out, dtype=torch.int64)
    product = torch_private.packed_int8_linear(x, packed, torch.ones(out), zeros)
    assert torch.equal(product, ((x.int() - 128) @ values.int().T).float())


@knows_the_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bytes_are_those_of_onednn(shape: tuple[int, int]) -> None:
    for values in weights(shape):
        blocks, sums = parts(torch_private.pack_int8_linear(values), values)
        ours = torch.zeros_like(blocks), torch.zeros_like(sums)
        packing._pack(values, *ours)
        assert torch.equal(blocks, ours[0])
        assert torch.equal(sums, ours[1])


@knows_the_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_first_of_a_shape_is_left_to_onednn(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = weights(shape)
    packed = pack_int8(first)
    assert packing._known[shape] is packed
    monkeypatch.setattr(packing, "_is_known", None)
    for values in others:
        assert_gives_exact_products(pack_int8(values), values)
    assert_gives_exact_products(packed, first)


@pytest.mark.parametrize("shape", [*SHAPES, (100, 130), (64, 100), (96, 64)])
def test_products(shape: tuple[int, int]) -> None:
    all_packed = [pack_int8(values) for values in weights(shape)]
    for packed, values in zip(all_packed, weights(shape), strict=True):
        assert_gives_exact_products(packed, values)


packing_as_it_is = packing._pack


def other_blocks(values: Tensor, blocks: Tensor, sums: Tensor) -> None:
    blocks.copy_(values.flatten().flip(0))
    sums.copy_(-values.sum(1))


def other_sums(values: Tensor, blocks: Tensor, sums: Tensor) -> None:
    packing_as_it_is(values, blocks, sums)
    sums.add_(1)


@pytest.mark.parametrize("layout", [other_blocks, other_sums])
@pytest.mark.parametrize("first_is", ["random", "zeros"])
def test_a_layout_that_is_not_known_is_left_to_onednn(
    layout, first_is: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_pack", layout)
    shape = (192, 64)
    all_values = weights(shape)
    if first_is == "zeros":  # in which nothing tells one layout from another
        all_values[0].zero_()
    packed = [pack_int8(values) for values in all_values]
    assert shape not in packing._known
    for each, values in zip(packed, all_values, strict=True):
        assert_gives_exact_products(each, values)


def test_a_pytorch_that_does_not_tell_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutAddresses:
        _nbytes = torch.ops.mkldnn._nbytes

    monkeypatch.setattr(torch.ops, "mkldnn", WithoutAddresses)
    shape = (64, 192)
    packed = [pack_int8(values) for values in weights(shape)]
    assert shape not in packing._known
    for each, values in zip(packed, weights(shape), strict=True):
        assert_gives_exact_products(each, values)


def test_nothing_is_kept_once_the_weights_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_is_known", lambda packed, values: True)
    shape = (64, 320)
    packed = [pack_int8(values) for values in weights(shape, 1)]
    assert shape in packing._known
    del packed
    assert shape not in packing._known
    again = pack_int8(weights(shape)[0])
    assert packing._known[shape] is again
