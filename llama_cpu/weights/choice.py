"""The choice between a format's products: they are timed on this processor.

Each candidate multiplies a sample as large as the model's own matrices allow: one row as in decode,
a few rows as in a pass of speculative decoding, and a chunk of a prompt. What counts is the time of
a whole turn, in which decode has most of the weight.
"""

import copy
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from llama_cpu.errors import UserError
from llama_cpu.weights.linear import PREFILL_CHUNK, Weight
from llama_cpu.weights.operations import Operations, Product, ProductChoice
from llama_cpu.weights.weight_format import WeightFormat

W = TypeVar("W", bound=Weight)

_FEW_ROWS = (2, 4, 8)
_ANSWER = 256  # tokens of an answer, for one chunk of a prompt
_DRAFTED = 1 / 8  # of its passes check a draft of several tokens
_TOO_SMALL = 1 << 18  # values of a matrix; below, a product's time is that of calling it
_LARGEST_SAMPLE = 1 << 22  # values, for a few rows
_PROMPT_SAMPLE = 1 << 20  # values, for a chunk of a prompt
# Bytes of all copies of a sample: more than most caches hold, as decode reads weights from memory.
_ALL_COPIES = 48 << 20
_MOST_COPIES = 24
_CALLS = 4  # of a product in a round: the quickest counts, as other programs disturb some
_SECONDS = 0.7  # after which no further round begins ...
_LEAST_ROUNDS, _MOST_ROUNDS = 4, 12  # ... but for these
# A product that is not preferred must take less than this share of the other's time ...
_CLEARLY = 0.85
# ... and be faster in this share of the rounds, which some disturbance alone does not bring about.
_MOSTLY = 0.75
_HARDLY_LONGER = 1.5  # times one row's time


class Operators(Protocol):
    """Whoever chooses the products of a model. ``MeasuredOperators`` is the program's own."""

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        """Choose for a model whose largest layer matrix has this shape [out, in]."""


class PreferredOperators:
    """Takes the first products that work, without measuring anything."""

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        return preferred(weight_format.operations)


class MeasuredOperators:
    """Times the products of a format once for each shape, and remembers the choice.

    One object serves a whole run of the program, so that the same model always gets the same
    products. ``clock`` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._chosen: dict[tuple[WeightFormat, tuple[int, int], int], ProductChoice[Any]] = {}

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        key = weight_format, shape, threads
        if key not in self._chosen:
            self._chosen[key] = self._measured(weight_format, shape, threads)
        return self._chosen[key]

    def _measured(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        operations = weight_format.operations
        working = _working(operations)
        if math.prod(shape) < _TOO_SMALL or len(working) == 1:
            return preferred(operations)
        try:
            with torch.inference_mode(), _threads(threads):
                return _choose(weight_format, working, shape, self._clock)
        except UserError:  # no memory for the sample; the model's own will not fit either
            return preferred(operations)


def preferred(operations: Operations[W]) -> ProductChoice[W]:
    """Take the first product that works, and the first in place."""
    working = _working(operations)
    in_place = next(product for product in working if product.in_place)
    return ProductChoice(working[0], in_place, working[0].rows_at_once, in_place.rows_at_once)


def only_in_place(choice: ProductChoice[W]) -> ProductChoice[W]:
    """Return the choice for weights that stay where they lie in the files."""
    rows = choice.in_place_rows_at_once
    return replace(choice, product=choice.in_place, rows_at_once=rows)


def _working(operations: Operations[W]) -> list[Product[W]]:
    return [product for product in operations.products if product.works()]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Sample:
    """A matrix of random numbers that seems to come from a file; 64 rows are repeated."""

    shape: tuple[int, ...]
    dtype: None = None

    def mapped(self) -> Tensor | None:
        return None

    def fill(self, target: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        block = torch.randn(min(64, len(target)), self.shape[1], generator=generator)
        for piece in torch.split(target, len(block)):
            piece.copy_(block[: len(piece)])

    def rows(self, first: int, last: int) -> "_Sample":
        return _Sample((last - first, self.shape[1]))


class _Candidate(Generic[W]):
    """A product, made for several copies of the sample, and the seconds that it took.

    Each call takes another copy, so that the weight comes from memory and not from a cache.
    """

    def __init__(self, product: Product[W], weights: Sequence[W], prompt_weight: W) -> None:
        self.product = product
        self._linears = itertools.cycle([product.make(weight) for weight in weights])
        self._prompt_linear = product.make(prompt_weight)
        self.seconds: dict[int, list[float]] = defaultdict(list)  # by rows: each round's least

    def time_round(self, x: Tensor, clock: Callable[[], float]) -> None:
        """Multiply x [rows, in] a few times and note the least time."""
        is_prompt = x.shape[0] == PREFILL_CHUNK
        least = math.inf
        for _ in range(1 if is_prompt else _CALLS):
            linear = self._prompt_linear if is_prompt else next(self._linears)
            began = clock()
            linear(x)
            least = min(least, clock() - began)
        self.seconds[x.shape[0]].append(least)

    def one_row(self) -> float:
        """Return the seconds of one row. More rows cannot take less: then one was disturbed."""
        return min(min(self.seconds[rows]) for rows in (1, *_FEW_ROWS))

    def rows_at_once(self) -> int:
        """Return how many rows take hardly longer than one."""
        one = self.one_row()
        quick = [n for n in _FEW_ROWS if min(self.seconds[n]) <= _HARDLY_LONGER * one]
        return max(quick, default=1)


def _choose(
    weight_format: WeightFormat,
    products: Sequence[Product[Any]],
    shape: tuple[int, int],
    clock: Callable[[], float],
) -> ProductChoice[Any]:
    began = clock()
    sample, prompt_sample = (
        weight_format.operations.convert([_Sample(_at_most(values, shape))], _new)
        for values in (_LARGEST_SAMPLE, _PROMPT_SAMPLE)
    )
    size = weight_format.nbytes(_at_most(_LARGEST_SAMPLE, shape))
    copies = min(_MOST_COPIES, max(2, _ALL_COPIES // size))
    weights = [sample, *(copy.deepcopy(sample) for _ in range(copies - 1))]
    candidates = [_Candidate(product, weights, prompt_sample) for product in products]
    inputs = [torch.randn(rows, shape[1]) for rows in (1, *_FEW_ROWS, PREFILL_CHUNK)]
    for candidate in candidates:  # the first product of each size compiles its code
        for x in inputs:
            candidate.time_round(x, clock)
        candidate.seconds.clear()
    for done in range(_MOST_ROUNDS):
        if done >= _LEAST_ROUNDS and clock() - began > _SECONDS:
            break
        # Most of the time is for what counts most; the others are only roughly of interest.
        for x in inputs if done % 4 == 0 else inputs[:1]:
            for candidate in candidates:
                candidate.time_round(x, clock)
    best = _best(candidates, shape)
    in_place = _best([each for each in candidates if each.product.in_place], shape)
    return ProductChoice(
        best.product, in_place.product, best.rows_at_once(), in_place.rows_at_once()
    )


def _at_most(values: int, shape: tuple[int, int]) -> tuple[int, int]:
    """As many rows of the matrix as have so many values; whole blocks of 64, as real ones."""
    rows, columns = shape
    return min(rows, max(64, values // columns // 64 * 64)), columns


def _new(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        raise UserError("The system has no memory to measure its speed with.") from error


def _best(candidates: list[_Candidate[Any]], shape: tuple[int, int]) -> _Candidate[Any]:
    best = candidates[0]
    for other in candidates[1:]:
        rounds = list(zip(other.seconds[1], best.seconds[1], strict=True))
        wins = sum(theirs < ours for theirs, ours in rounds)
        is_clear = _turn(other, shape) < _CLEARLY * _turn(best, shape)
        if is_clear and wins >= _MOSTLY * len(rounds):
            best = other
    return best


def _turn(candidate: _Candidate[Any], shape: tuple[int, int]) -> float:
    """Return the seconds of a turn, for the rows of the larger sample."""
    larger, smaller = (_at_most(values, shape)[0] for values in (_LARGEST_SAMPLE, _PROMPT_SAMPLE))
    prompt = min(candidate.seconds[PREFILL_CHUNK]) * larger / smaller
    several = min(candidate.seconds[_FEW_ROWS[-1]])
    token = (1 - _DRAFTED) * candidate.one_row() + _DRAFTED * several
    return _ANSWER * token + prompt
