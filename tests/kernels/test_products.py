"""Every kernel format against float64 products with the weight that the gguf library reads."""

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from llama_cpu.kernels.formats import FORMATS
from llama_cpu.kernels.layout import UPPER_BYTE
from llama_cpu.kernels.linear import FewRows, KernelMatrix

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK_FORMATS = [kind for kind in FORMATS if kind not in (*FLOATS, "INT8")]
# Where a block has float16 numbers; all other bytes may have any value.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
ROWS = (*range(1, 18), 63)
OUTS = (1, 2, 5, 33)
# The largest magnitude of a group, in steps of the upper byte.
LARGEST = (127 * UPPER_BYTE + 126) / UPPER_BYTE


def random_blocks(kind: str, out: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (out, columns // length, size), dtype=np.uint8)
    for place in HALVES[kind]:
        halves = rng.uniform(-0.02, 0.02, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, place : place + 2] = halves[..., None].view(np.uint8)
    return blocks.reshape(out, -1)


def random_matrix(kind: str, out: int, columns: int, seed: int) -> tuple[KernelMatrix, Tensor]:
    """A matrix and its values in float64."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.standard_normal((out, columns)))
    if kind in FLOATS:
        stored = values.to(FLOATS[kind])
        return KernelMatrix(kind, stored, out, columns), stored.double()
    if kind == "INT8":
        stored = torch.from_numpy(rng.integers(-127, 128, (out, columns), dtype=np.int8))
        scales = torch.from_numpy(rng.uniform(0.001, 0.02, out).astype(np.float32))
        exact = stored.double() * scales.double()[:, None]
        return KernelMatrix(kind, stored, out, columns, scales), exact
    blocks = random_blocks(kind, out, columns, rng)
    widened = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    matrix = KernelMatrix(kind, torch.from_numpy(blocks), out, columns)
    return matrix, torch.from_numpy(widened).double()


def random_inputs(rows: int, columns: int, seed: int) -> Tensor:
    """Inputs that rounding to 8 bits cannot round in two ways: steps are never halved."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-126, 127, (rows, columns)) + rng.uniform(-0.4, 0.4, (rows, columns))
    steps[:, ::32] = LARGEST * rng.choice([-1, 1], steps[:, ::32].shape)
    groups = -(-columns // 32)
    scales = np.repeat(10 ** rng.uniform(-3, 0, (rows, groups)), 32, axis=1)[:, :columns]
    return torch.from_numpy((steps * scales / LARGEST).astype(np.float32))


def rounded_inputs(x: Tensor, kind: str) -> Tensor:
    """Groups of 32 as kernels round them (kernels/inputs.py), in float64."""
    groups = x.double().view(len(x), -1, 32)
    scale = groups.abs().amax(dim=2, keepdim=True) / (LARGEST * UPPER_BYTE)
    steps = torch.where(scale > 0, groups / scale, 0).round()
    if in_blocks_of_256(kind):
        steps = (steps / UPPER_BYTE).round() * UPPER_BYTE
    return (steps * scale).view(x.shape)


def in_blocks_of_256(kind: str) -> bool:
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 256


def largest_error(kind: str, matrix: KernelMatrix, exact: Tensor, x: Tensor) -> float:
    """The largest error of a product, compared to the sizes of what it adds up."""
    inputs = rounded_inputs(x, kind) if FORMATS[kind].rounds_inputs else x.double()
    result = FewRows(matrix, 2)(x)
    assert result.shape == (len(x), matrix.out) and result.dtype == torch.float32
    sizes = inputs.abs().sum(dim=1, keepdim=True) * exact.abs().amax(dim=1)
    return float(((result.double() - inputs @ exact.T).abs() / sizes.clamp(min=1e-30)).max())


def widths(kind: str) -> tuple[int, ...]:
    if kind in FLOATS or kind == "INT8":
        return (1, 7, 8, 13, 40)
    length, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return (256, 768) if length == 256 else (32, 96, 288, 512)


@pytest.mark.parametrize("kind", FORMATS)
def test_products(kind: str) -> None:
    # In 16 bits, a number may be half way between two steps, which float32 decides otherwise.
    most = 4e-6 if FORMATS[kind].rounds_inputs and not in_blocks_of_256(kind) else 1e-6
    for columns in widths(kind):
        for out in OUTS:
            matrix, exact = random_matrix(kind, out, columns, seed=columns + out)
            for rows in ROWS:
                x = random_inputs(rows, columns, seed=rows)
                error = largest_error(kind, matrix, exact, x)
                assert error < most, (columns, out, rows)


@pytest.mark.parametrize("kind", FORMATS)
def test_widened_weights_are_those_of_gguf(kind: str) -> None:
    for columns in widths(kind):
        for out in OUTS:
            matrix, exact = random_matrix(kind, out, columns, seed=columns + out)
            first, last = out // 3, out
            target = torch.full((last - first, columns), torch.nan)
            matrix.widen(first, last, target)
            # One unit in the last place of the largest number that a block's value is a sum of.
            wanted = exact[first:last]
            allowed = 2.0**-23 * wanted.abs().amax(dim=1, keepdim=True)
            assert ((target.double() - wanted).abs() <= allowed).all(), (columns, out)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_zeros_and_denormal_numbers(kind: str) -> None:
    columns = widths(kind)[-1]
    matrix, _ = random_matrix(kind, 5, columns, seed=0)
    x = random_inputs(5, columns, seed=1)
    x[1] = 0
    x[3] = 1e-41
    result = FewRows(matrix, 2)(x)
    assert result[1].eq(0).all()
    assert result[3].abs().max() < 1e-35
    alone = FewRows(matrix, 2)(x[[0, 2, 4]])
    assert torch.allclose(result[[0, 2, 4]], alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_not_finite_stays_visible(kind: str, value: float) -> None:
    columns = widths(kind)[-1]
    matrix, _ = random_matrix(kind, 5, columns, seed=0)
    for rows in (1, 5):
        x = random_inputs(rows, columns, seed=1)
        x[0, 17] = value
        result = FewRows(matrix, 2)(x)
        assert not result[0].isfinite().any()
        assert result[1:].isfinite().all()


def test_rows_of_a_weight_are_computed_once_each() -> None:
    """Also where threads are more than pieces, and pieces are not of one size."""
    for threads in (1, 2, 3, 4):
        for out in (1, 3, 100, 1001):
            weight = torch.randn(out, 40, generator=torch.Generator().manual_seed(out))
            x = random_inputs(3, 40, seed=out)
            result = FewRows(KernelMatrix("F32", weight, out, 40), threads)(x)
            assert torch.allclose(result, x @ weight.T, rtol=1e-5, atol=1e-5)


def test_an_input_that_is_not_contiguous() -> None:
    weight = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    x = random_inputs(16, 4, seed=0).T
    product = FewRows(KernelMatrix("F32", weight, 9, 16), 2)
    assert torch.allclose(product(x), x @ weight.T, rtol=1e-5, atol=1e-5)
