"""Products are chosen by what a clock says, and without one by preference."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from llama_cpu.weights.choice import MeasuredOperators, only_in_place, preferred
from llama_cpu.weights.float32_linear import OPERATIONS as FLOAT32_OPERATIONS
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.kernel_linear import KernelLinear, float_matrix
from llama_cpu.weights.linear import PREFILL_CHUNK
from llama_cpu.weights.measuring import ROWS, sample_shape
from llama_cpu.weights.operations import Operations, Product
from llama_cpu.weights.weight_format import WeightFormat

SHAPE = (1024, 512)


@dataclass
class Clock:
    """Time passes only when a product says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def product(
    clock: Clock,
    name: str,
    one: float,
    prompt: float = 0.0,
    few: float | None = None,
    in_place: bool = True,
    works: bool = True,
    few_rows_as: str = "",
) -> Product[Tensor]:
    """Takes ``one`` second for one row, ``few`` for several, ``prompt`` for a chunk."""

    def make(weight: Tensor):
        def linear(x: Tensor) -> Tensor:
            rows = x.shape[0]
            several = one if few is None else few
            clock.now += one if rows == 1 else prompt if rows == PREFILL_CHUNK else several
            return x @ weight.T

        return linear

    return Product(
        name, make, in_place, rows_at_once=3, works=lambda: works, few_rows_as=few_rows_as
    )


def toy_format(products: Sequence[Product[Tensor]]) -> WeightFormat:
    operations: Operations[Tensor] = replace(FLOAT32_OPERATIONS, products=tuple(products))
    return WeightFormat(
        label="toy",
        switch="--toy",
        help="",
        merge_switch="--toy",
        merge_help="",
        can_be_split=True,
        matrix_bytes=lambda rows, columns: 4 * rows * columns,
        cache_type="float32",
        load_operations=lambda: operations,
    )


def test_the_quickest_in_decode_is_taken() -> None:
    clock = Clock()
    slow = product(clock, "slow", one=1.0, prompt=5.0)
    quick = product(clock, "quick", one=0.5, prompt=5.4, in_place=False)
    chosen = MeasuredOperators(clock).choose(toy_format([slow, quick]), SHAPE, 2)
    assert chosen.product.name == "quick" and chosen.in_place.name == "slow"
    assert only_in_place(chosen).product.name == "slow"


def test_a_prompt_counts_where_decode_is_the_same() -> None:
    clock = Clock()
    first = product(clock, "first", one=0.001, prompt=1.0)
    second = product(clock, "second", one=0.00099, prompt=0.1)
    operators = MeasuredOperators(clock)
    assert operators.choose(toy_format([first, second]), SHAPE, 2).product.name == "second"
    # It must not be slower in decode: a quick prompt does not pay for that.
    third = product(clock, "third", one=0.0011, prompt=0.1)
    assert operators.choose(toy_format([first, third]), SHAPE, 2).product.name == "first"


def test_quick_decode_does_not_pay_for_slow_prompts() -> None:
    clock = Clock()
    first = product(clock, "first", one=1.0, prompt=5.0)
    second = product(clock, "second", one=0.5, prompt=6.0)
    assert MeasuredOperators(clock).choose(toy_format([first, second]), SHAPE, 2).product is first


def test_the_same_code_for_decode_is_no_tie() -> None:
    clock = Clock()
    first = product(clock, "first", one=0.001, prompt=1.0)
    second = product(clock, "second", one=0.001, prompt=0.1)
    assert MeasuredOperators(clock).choose(toy_format([first, second]), SHAPE, 2).product is second


@pytest.mark.parametrize(("prompt", "chosen"), [(5.0, "base"), (4.5, "base"), (4.0, "variant")])
def test_a_variant_for_many_rows_is_chosen_by_its_prompts(prompt: float, chosen: str) -> None:
    """Even if decode takes most of a turn; for few rows the variant is not timed."""
    clock = Clock()
    base = product(clock, "base", one=1.0, few=1.2, prompt=5.0)
    variant = product(clock, "variant", one=99.0, few=1.2, prompt=prompt, few_rows_as="base")
    toy = toy_format([product(clock, "slow", one=2.0, prompt=5.0), base, variant])
    operators = MeasuredOperators(clock)
    assert operators.choose(toy, SHAPE, 2).product.name == chosen
    measurement = operators.measurement(toy, SHAPE, 2)
    assert measurement is not None and measurement.product == chosen
    assert measurement.seconds["variant"][1] == measurement.seconds["base"][1] == 1.0
    assert measurement.seconds["variant"][PREFILL_CHUNK] == prompt
    assert all(tuple(seconds) == ROWS for seconds in measurement.seconds.values())


def test_times_of_many_rows_are_for_the_whole_sample() -> None:
    """They are measured on a quarter of it."""
    clock = Clock()
    toy = toy_format([product(clock, name, one=1.0, prompt=2.0) for name in ("a", "b")])
    measurement = MeasuredOperators(clock).measurement(toy, (9000, 1024), 2)
    assert sample_shape((9000, 1024)) == (4096, 1024)
    assert measurement is not None and measurement.seconds["a"][PREFILL_CHUNK] == 8.0


def test_a_little_quicker_is_not_enough() -> None:
    clock = Clock()
    first = product(clock, "first", one=1.0)
    second = product(clock, "second", one=0.9)
    assert MeasuredOperators(clock).choose(toy_format([first, second]), SHAPE, 2).product is first


def test_what_does_not_work_is_not_taken() -> None:
    clock = Clock()
    broken = product(clock, "broken", one=0.1, works=False)
    others = [product(clock, "a", one=1.0), product(clock, "b", one=0.1)]
    chosen = MeasuredOperators(clock).choose(toy_format([broken, *others]), SHAPE, 2)
    assert chosen.product.name == "b"
    assert preferred(toy_format([broken, *others]).operations).product.name == "a"


def test_how_many_rows_take_hardly_longer_than_one() -> None:
    clock = Clock()
    first = product(clock, "first", one=1.0, few=1.2)
    second = product(clock, "second", one=1.0, few=2.0)
    chosen = MeasuredOperators(clock).choose(toy_format([first, second]), SHAPE, 2)
    assert chosen.product is first and chosen.rows_at_once == 8
    chosen = MeasuredOperators(clock).choose(toy_format([second, second]), SHAPE, 2)
    assert chosen.rows_at_once == 1


@pytest.mark.parametrize(
    ("kernel", "many", "few_rows"),
    [(1.0, 100.0, 63), (1.0, 20.0, 31), (2.0, 20.0, 15), (10.0, 20.0, 7)],
)
def test_a_kernel_gives_way_where_it_is_slower(kernel: float, many: float, few_rows: int) -> None:
    """It takes ``kernel`` seconds a row, and the product for many rows the same for any number."""
    clock = Clock()

    def make(weight: Tensor) -> KernelLinear:
        def few(x: Tensor) -> Tensor:
            clock.now += kernel * x.shape[0]
            return x @ weight.T

        def all_rows(x: Tensor) -> Tensor:
            clock.now += many
            return x @ weight.T

        linear = KernelLinear(float_matrix(weight), all_rows)
        linear.__dict__["few"] = few  # in place of what is compiled
        return linear

    kernels = Product("kernel", make, in_place=True, uses_kernels=True)
    variant = replace(kernels, name="variant", few_rows_as="kernel")
    toy = toy_format([kernels, variant, product(clock, "slow", one=1000.0, prompt=1000.0)])
    operators = MeasuredOperators(clock)
    chosen = operators.choose(toy, SHAPE, 2)
    measurement = operators.measurement(toy, SHAPE, 2)
    assert measurement is not None and measurement.few_rows == few_rows
    assert measurement.seconds["kernel"][32] == (many if few_rows < 32 else 32 * kernel)
    for product_of_few in (chosen.product, chosen.in_place):
        linear = product_of_few.make(torch.ones(4, 8))
        assert isinstance(linear, KernelLinear) and linear.few_rows == few_rows


def test_the_same_model_always_gets_the_same_products() -> None:
    clock = Clock()
    toy = toy_format([product(clock, "a", one=1.0), product(clock, "b", one=0.1)])
    operators = MeasuredOperators(clock)
    chosen = operators.choose(toy, SHAPE, 2)
    measured_until = clock.now
    assert operators.choose(toy, SHAPE, 2) == chosen
    assert clock.now == measured_until > 0


def test_small_models_are_not_measured() -> None:
    clock = Clock()
    toy = toy_format([product(clock, "a", one=1.0), product(clock, "b", one=0.1)])
    assert MeasuredOperators(clock).choose(toy, (64, 64), 2).product.name == "a"
    assert clock.now == 0


@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
def test_every_format_is_measured_on_this_processor(weight_format: WeightFormat) -> None:
    torch.set_num_threads(2)
    chosen = MeasuredOperators().choose(weight_format, (1024, 256), 1)
    assert chosen.product.works() and chosen.in_place.works() and chosen.in_place.in_place
    assert 1 <= chosen.rows_at_once <= 8
    assert torch.get_num_threads() == 2


_OLD_PROCESSOR = """
from llama_cpu.weights.choice import preferred
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.int8 import INT8
print(*(product.name for product in INT8.operations.products if product.works()), sep="; ")
print(*(product.name for product in BF16.operations.products if product.works()), sep="; ")
print(preferred(INT8.operations).product.name)
"""


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or sys.platform == "win32", reason="needs oneDNN"
)
def test_a_processor_whose_int8_sums_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN is told to do without the newer instructions."""
    from torch.backends.cpu import get_cpu_capability

    if not get_cpu_capability().startswith("AVX"):
        pytest.skip("only on x86")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    command = [sys.executable, "-c", _OLD_PROCESSOR]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    int8, bf16, preferred_int8 = printed.splitlines()
    # What works in place depends on the processor; products of bytes by oneDNN do not work.
    assert "packed" not in int8.split("; ") and "packed" not in bf16.split("; ")
    assert {"widened", "widened, packed on the way"} <= set(int8.split("; "))
    assert preferred_int8 in {"kernel, then widened", "widened", "plain"}
