"""The choice between the products of a weight format, by timing them on this processor.

Each candidate is timed on a sample matrix, of the size of the model's own matrices up to a limit.
The input has one row (decode), a few rows (a pass of speculative decoding) or one chunk of a prompt
(prefill). The candidates are compared by the estimated time of a whole turn, most of which is
decode.
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
# The turn whose time is compared: an answer of this many tokens for one chunk of a prompt.
_ANSWER = 256
_DRAFTED = 1 / 8  # fraction of the answer's passes that check a draft of several tokens
_TOO_SMALL = 1 << 18  # values of a matrix below which the call takes longer than the product
_LARGEST_SAMPLE = 1 << 22  # maximum values of the sample for one and a few rows
_PROMPT_SAMPLE = 1 << 20  # maximum values of the sample for a chunk of a prompt
# Bytes of all copies of a sample: more than most caches hold, since decode reads from memory.
_ALL_COPIES = 48 << 20
_MOST_COPIES = 24
_CALLS = 4  # calls per round; the fastest counts, because other programs may disturb the rest
_SECONDS = 0.7  # no further round begins after this time, once _LEAST_ROUNDS are done
_LEAST_ROUNDS, _MOST_ROUNDS = 4, 12
# A product replaces a preferred one only if it takes less than this fraction of the time ...
_CLEARLY = 0.85
# ... and is faster in at least this fraction of the rounds, so that a disturbance does not decide.
_MOSTLY = 0.75
# ... and reads prompts in at most this multiple of the time: fast decode does not pay for it.
_SLOWER_PROMPT = 1.1
_HARDLY_LONGER = 1.5  # several rows "take hardly longer" up to this multiple of one row's time


class Operators(Protocol):
    """Chooses the products of a model; the program uses ``MeasuredOperators``."""

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        """Return the products for a model whose largest layer matrix has ``shape`` [out, in]."""


class PreferredOperators:
    """Chooses the first products that work, without measuring."""

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        return preferred(weight_format.operations)


class MeasuredOperators:
    """Times the products of a format once per shape and number of threads, and caches the choice.

    One object is used for a whole run of the program, so that the same model always gets the same
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
        except UserError:  # no memory for the sample, so the model will not fit either
            return preferred(operations)


def preferred(operations: Operations[W]) -> ProductChoice[W]:
    """Choose the first product that works, and the first that works in place."""
    working = _working(operations)
    in_place = next(product for product in working if product.in_place)
    return ProductChoice(working[0], in_place, working[0].rows_at_once, in_place.rows_at_once)


def only_in_place(choice: ProductChoice[W]) -> ProductChoice[W]:
    """Return the choice for memory-mapped weights: the in-place product for all matrices."""
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
    """A ``StoredMatrix`` of random numbers; every 64 rows repeat."""

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
    """A product, made for several copies of the sample, and its measured times.

    Each call uses another copy, so that the weight is read from memory and not from a cache.
    """

    def __init__(self, product: Product[W], weights: Sequence[W], prompt_weight: W) -> None:
        self.product = product
        self._linears = itertools.cycle([product.make(weight) for weight in weights])
        self._prompt_linear = product.make(prompt_weight)
        # Number of rows -> the shortest time of each round, in seconds.
        self.seconds: dict[int, list[float]] = defaultdict(list)

    def time_round(self, x: Tensor, clock: Callable[[], float]) -> None:
        """Multiply x [rows, in] a few times and record the shortest time."""
        is_prompt = x.shape[0] == PREFILL_CHUNK
        least = math.inf
        for _ in range(1 if is_prompt else _CALLS):
            linear = self._prompt_linear if is_prompt else next(self._linears)
            began = clock()
            linear(x)
            least = min(least, clock() - began)
        self.seconds[x.shape[0]].append(least)

    def one_row(self) -> float:
        """Return the time of one row in seconds.

        More rows cannot take less time. If they did, the measurement of one row was disturbed.
        """
        return min(min(self.seconds[rows]) for rows in (1, *_FEW_ROWS))

    def rows_at_once(self) -> int:
        """Return the largest number of rows that takes hardly longer than one row."""
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
    for candidate in candidates:  # warm up: the first product of each size compiles its kernel
        for x in inputs:
            candidate.time_round(x, clock)
        candidate.seconds.clear()
    for done in range(_MOST_ROUNDS):
        if done >= _LEAST_ROUNDS and clock() - began > _SECONDS:
            break
        # One row is timed in every round, as it matters most; the other sizes in every fourth.
        for x in inputs if done % 4 == 0 else inputs[:1]:
            for candidate in candidates:
                candidate.time_round(x, clock)
    best = _best(candidates, shape)
    in_place = _best([each for each in candidates if each.product.in_place], shape)
    return ProductChoice(
        best.product, in_place.product, best.rows_at_once(), in_place.rows_at_once()
    )


def _at_most(values: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Reduce a shape to at most ``values`` values, in whole blocks of 64 rows (at least one)."""
    rows, columns = shape
    return min(rows, max(64, values // columns // 64 * 64)), columns


def _new(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        raise UserError("There is not enough memory to measure the processor's speed.") from error


def _best(candidates: list[_Candidate[Any]], shape: tuple[int, int]) -> _Candidate[Any]:
    best = candidates[0]
    for other in candidates[1:]:
        rounds = list(zip(other.seconds[1], best.seconds[1], strict=True))
        wins = sum(theirs < ours for theirs, ours in rounds)
        is_clear = _turn(other, shape) < _CLEARLY * _turn(best, shape)
        prompt, best_prompt = (min(each.seconds[PREFILL_CHUNK]) for each in (other, best))
        if is_clear and wins >= _MOSTLY * len(rounds) and prompt <= _SLOWER_PROMPT * best_prompt:
            best = other
    return best


def _turn(candidate: _Candidate[Any], shape: tuple[int, int]) -> float:
    """Return the estimated time of a turn in seconds, for a matrix of the larger sample's size."""
    larger, smaller = (_at_most(values, shape)[0] for values in (_LARGEST_SAMPLE, _PROMPT_SAMPLE))
    prompt = min(candidate.seconds[PREFILL_CHUNK]) * larger / smaller
    several = min(candidate.seconds[_FEW_ROWS[-1]])
    token = (1 - _DRAFTED) * candidate.one_row() + _DRAFTED * several
    return _ANSWER * token + prompt
