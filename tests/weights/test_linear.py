"""Every product of every format against the plain one in float32."""

import pytest
import torch

from llama_cpu.system import torch_private
from llama_cpu.weights import many_rows
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.bf16_linear import (
    Bfloat16Linear,
    Bfloat16Output,
    PackedBfloat16Linear,
    WidenedBfloat16Linear,
)
from llama_cpu.weights.bf16_linear import packing_works as bf16_packing_works
from llama_cpu.weights.float32_linear import Float32Linear, PackedFloat32Linear
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.int8_linear import (
    Int8Linear,
    PlainInt8Linear,
    WidenedInt8Linear,
    int8_matmul_works,
    packing_works,
)
from llama_cpu.weights.int8_rows import Int8Weight, quantize_rows
from llama_cpu.weights.linear import take_rows
from llama_cpu.weights.many_rows import MANY_ROWS, multiply_packing
from llama_cpu.weights.many_rows import packing_works as float32_packing_works
from llama_cpu.weights.operations import product_named
from llama_cpu.weights.weight_format import WeightFormat

needs_int8_products = pytest.mark.skipif(
    not (packing_works() and int8_matmul_works()),
    reason="needs a processor with exact int8 products",
)
needs_packed_bf16 = pytest.mark.skipif(
    not bf16_packing_works(), reason="needs a processor with products of bfloat16"
)
needs_packed_float32 = pytest.mark.skipif(not float32_packing_works(), reason="needs oneDNN")

ROWS = [1, 2, 7, 64]
SHAPES = [(96, 64), (33, 128), (512, 24)]


def weight_and_input(shape: tuple[int, int], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(shape[0] + rows)
    weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    return weight, torch.randn(rows, shape[1], generator=generator)


@pytest.mark.parametrize(
    "linear", [Float32Linear, pytest.param(PackedFloat32Linear, marks=needs_packed_float32)]
)
@pytest.mark.parametrize("rows", [*ROWS, 8, 600])
@pytest.mark.parametrize("shape", [*SHAPES, (40, 1000)])
def test_float32(linear, shape: tuple[int, int], rows: int) -> None:
    weight, x = weight_and_input(shape, rows)
    expected = (x.double() @ weight.double().T).float()
    product = linear(weight)(x)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("linear", [Bfloat16Linear, WidenedBfloat16Linear])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16(linear, shape: tuple[int, int], rows: int) -> None:
    """Within 1% of the largest result: input and result have 8 bits each."""
    weight, x = weight_and_input(shape, rows)
    weight = weight.bfloat16()
    expected = x @ weight.float().T
    product = linear(weight)(x)
    is_widened = linear is WidenedBfloat16Linear and rows > 1
    assert product.dtype == (torch.float32 if is_widened else torch.bfloat16)
    assert product.shape == (rows, shape[0])
    assert (product - expected).abs().max() < 0.01 * expected.abs().max()


@needs_packed_bf16
@pytest.mark.parametrize("rows", [*ROWS, 8, 600])
@pytest.mark.parametrize("shape", [*SHAPES, (40, 1000)])
def test_packed_bfloat16(shape: tuple[int, int], rows: int) -> None:
    """The exact product rounded to bfloat16, or a neighbour of that."""
    weight, x = weight_and_input(shape, rows)
    weight, x = weight.bfloat16(), x.bfloat16()
    exact = x.double() @ weight.double().T
    packed = PackedBfloat16Linear(weight)
    product = packed(x.float())
    assert product.dtype == torch.bfloat16
    error = (product.double() - exact).abs()
    assert (error <= 2**-7 * exact.abs() + 1e-6).all()


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(PackedFloat32Linear, marks=needs_packed_float32),
        pytest.param(PackedBfloat16Linear, marks=needs_packed_bf16),
    ],
)
def test_a_packed_product_does_not_need_the_weight_any_more(packed) -> None:
    weight, x = weight_and_input((96, 64), 3)
    weight = weight.bfloat16() if packed is PackedBfloat16Linear else weight
    product = packed(weight)
    before = product(x)
    weight.zero_()
    assert torch.equal(product(x), before)


KERNEL = "kernel, then "


@needs_packed_float32
@pytest.mark.parametrize("rows", [1, 2, MANY_ROWS - 1, MANY_ROWS, 600])
@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
def test_packed_on_the_way_is_the_same_product(weight_format: WeightFormat, rows: int) -> None:
    """Bit for bit up to ``MANY_ROWS``; beyond, another order of summing rounds differently."""
    weight, x = weight_and_input((192, 128), rows)
    variants = [each for each in weight_format.operations.products if each.few_rows_as]
    assert variants and all(each.in_place for each in variants)
    for variant in variants:
        base = product_named(weight_format.operations, variant.few_rows_as)
        held = quantized(weight) if weight_format is INT8 else weight.to(weight_format.cache_dtype)
        if rows >= MANY_ROWS and variant.name.startswith(KERNEL):  # leaves many rows to another
            base = product_named(weight_format.operations, variant.name.removeprefix(KERNEL))
        expected, result = base.make(held)(x), variant.make(held)(x)
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        assert rows >= MANY_ROWS or torch.equal(result, expected)


@needs_packed_float32
@pytest.mark.parametrize("out", [64, 192, 200])
def test_a_large_weight_is_packed_in_blocks(out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_rows, "_BLOCK_BYTES", 4 * 128 * 64)
    weight, x = weight_and_input((out, 128), 100)
    torch.testing.assert_close(multiply_packing(x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)


@needs_packed_float32
def test_only_many_rows_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    monkeypatch.setattr(
        torch_private, "pack_linear", lambda weight, rows: packed.append(weight.shape)
    )
    monkeypatch.setattr(torch_private, "packed_linear", lambda x, packed: x)
    for rows in (1, 2, MANY_ROWS - 1, MANY_ROWS):
        weight, x = weight_and_input((96, 64), rows)
        Float32Linear(weight, multiply_packing)(x)
    assert packed == [(96, 64)]


def test_the_scratch_is_shared_and_grows() -> None:
    for shape in [(8, 4), (64, 32), (16, 8)]:
        weight, x = weight_and_input(shape, 3)
        expected = x @ weight.bfloat16().float().T
        torch.testing.assert_close(WidenedBfloat16Linear(weight.bfloat16())(x), expected)


def bf16_output(weight: torch.Tensor) -> Bfloat16Output:
    return Bfloat16Output(weight, product_named(BF16.operations, "plain").make(weight))


@pytest.mark.parametrize("vocab", [100, 5000])
def test_bfloat16_logits_of_the_best_are_exact(vocab: int) -> None:
    weight, x = weight_and_input((vocab, 64), 1)
    weight = weight.bfloat16()
    exact = (x @ weight.float().T)[0]
    logits = bf16_output(weight)(x)[0]
    best = exact.topk(50).indices
    torch.testing.assert_close(logits[best], exact[best], rtol=1e-5, atol=1e-5)
    assert int(logits.argmax()) == int(exact.argmax())
    assert (logits - exact).abs().max() < 0.01 * exact.abs().max()


def test_bfloat16_logits_of_several_rows() -> None:
    weight, x = weight_and_input((500, 64), 3)
    weight = weight.bfloat16()
    exact = x @ weight.float().T
    logits = bf16_output(weight)(x)
    assert logits.argmax(1).tolist() == exact.argmax(1).tolist()


def quantized(weight: torch.Tensor) -> Int8Weight:
    int8 = Int8Weight(torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0]))
    quantize_rows(weight.clone(), int8.values, int8.scale)
    return int8


def test_rows_are_quantised_to_the_nearest_step() -> None:
    weight, _ = weight_and_input((96, 64), 1)
    weight[3] = 0.0
    weight[4, 5] = -9.0  # the greatest of its row
    int8 = quantized(weight)
    back = take_rows(int8, torch.arange(96))
    assert (back - weight).abs().le(int8.scale.unsqueeze(1) * 0.5001).all()
    assert back[3].abs().max() == 0.0
    assert int8.values[4, 5] == -127
    assert int8.values.abs().max() == 127


def with_great_values(x: torch.Tensor) -> torch.Tensor:
    """Some rows have a few values that leave the others with hardly any of 127 steps."""
    x = x.clone()
    x[::3, 5] = 60.0
    return x


@needs_int8_products
@pytest.mark.parametrize("great_values", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", [*SHAPES, (40, 1000)])
def test_int8(shape: tuple[int, int], rows: int, great_values: bool) -> None:
    """Against the product with the same rounded weights: what is left is the activations' rounding,
    to 16 bits in few rows and to 8 in many."""
    weight, x = weight_and_input(shape, rows)
    if great_values:
        x = with_great_values(x)
    int8 = quantized(weight)
    product = Int8Linear(int8)(x)
    assert product.dtype == torch.float32
    exact = (x.double() @ take_rows(int8, torch.arange(shape[0])).double().T).float()
    allowed = 1e-3 if rows <= Int8Linear.FEW_ROWS else 0.03
    errors = (product - exact).norm(dim=1) / exact.norm(dim=1)
    assert errors.max() < allowed
    if great_values and rows > Int8Linear.FEW_ROWS and shape[1] >= 1000:
        assert errors[::3].max() < 1e-3  # these had their second row


@needs_int8_products
@pytest.mark.parametrize("rows", [7, 64])
def test_int8_packed_or_not_is_bit_for_bit_the_same(rows: int) -> None:
    """Beyond the few rows that keep their activations as they are."""
    weight, x = weight_and_input((192, 1000), rows)
    int8, x = quantized(weight), with_great_values(x)
    assert torch.equal(Int8Linear(int8)(x), PlainInt8Linear(int8)(x))


@needs_int8_products
def test_int8_weights_are_close_to_float32() -> None:
    weight, x = weight_and_input((512, 384), 4)
    plain = x @ weight.T
    assert (Int8Linear(quantized(weight))(x) - plain).norm() < 0.01 * plain.norm()


@needs_int8_products
def test_an_int8_row_does_not_depend_on_its_neighbours() -> None:
    """Tokens checked several at once get the very logits that they get one by one."""
    weight, x = weight_and_input((512, 384), 16)
    x[7] *= 100
    x[9] = 0.0
    product = Int8Linear(quantized(weight))
    together = product(x)
    for row in range(16):
        assert torch.equal(product(x[row : row + 1])[0], together[row])
    assert torch.equal(together[9], torch.zeros(512))


@needs_int8_products
def test_int8_shows_what_is_not_finite() -> None:
    weight, x = weight_and_input((96, 64), 2)
    x[1, 3] = float("nan")
    product = Int8Linear(quantized(weight))(x)
    assert product[0].isfinite().all()
    assert not product[1].isfinite().any()


@pytest.mark.parametrize(
    "linear", [pytest.param(PlainInt8Linear, marks=needs_int8_products), WidenedInt8Linear]
)
@pytest.mark.parametrize("great_values", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", [*SHAPES, (128, 192)])
def test_int8_as_it_lies_in_a_file(
    linear, shape: tuple[int, int], rows: int, great_values: bool
) -> None:
    """Within 1% of the product with the same rounded weights; 3 where activations have 8 bits."""
    weight, x = weight_and_input(shape, rows)
    if great_values:
        x = with_great_values(x)
    int8 = quantized(weight)
    expected = x @ take_rows(int8, torch.arange(shape[0])).T
    coarse = linear is PlainInt8Linear and rows > Int8Linear.FEW_ROWS
    allowed = 0.03 if coarse else 0.01
    assert (linear(int8)(x) - expected).abs().max() < allowed * expected.abs().max()
