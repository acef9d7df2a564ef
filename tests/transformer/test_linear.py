"""Every path of every precision against the plain product."""

import pytest
import torch

from llama_cpu.transformer import linear
from llama_cpu.transformer.linear import Bfloat16Linear, Float32Linear, make_linear, make_output

ROWS = [1, 2, 7, 64]
SHAPES = [(96, 64), (33, 128), (512, 24)]


def weight_and_input(shape: tuple[int, int], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(shape[0] + rows)
    weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    return weight, torch.randn(rows, shape[1], generator=generator)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32(shape: tuple[int, int], rows: int) -> None:
    weight, x = weight_and_input(shape, rows)
    expected = (x.double() @ weight.double().T).float()
    assert isinstance(make_linear(weight), Float32Linear)
    torch.testing.assert_close(make_linear(weight)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16(
    shape: tuple[int, int], rows: int, hardware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1% of the largest result: input and result have 8 bits each."""
    monkeypatch.setattr(linear, "_BF16_IN_HARDWARE", hardware)
    weight, x = weight_and_input(shape, rows)
    weight = weight.bfloat16()
    expected = x @ weight.float().T
    product = make_linear(weight)(x)
    assert product.dtype == torch.float32
    assert product.shape == (rows, shape[0])
    assert (product - expected).abs().max() < 0.01 * expected.abs().max()


def test_the_scratch_is_shared_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BF16_IN_HARDWARE", False)
    for shape in [(8, 4), (64, 32), (16, 8)]:
        weight, x = weight_and_input(shape, 3)
        expected = x @ weight.bfloat16().float().T
        torch.testing.assert_close(Bfloat16Linear(weight.bfloat16())(x), expected)


@pytest.mark.parametrize("vocab", [100, 5000])
def test_bfloat16_logits_of_the_best_are_exact(vocab: int) -> None:
    weight, x = weight_and_input((vocab, 64), 1)
    weight = weight.bfloat16()
    exact = (x @ weight.float().T)[0]
    logits = make_output(weight)(x)[0]
    best = exact.topk(50).indices
    torch.testing.assert_close(logits[best], exact[best], rtol=1e-5, atol=1e-5)
    assert int(logits.argmax()) == int(exact.argmax())
    assert (logits - exact).abs().max() < 0.01 * exact.abs().max()
