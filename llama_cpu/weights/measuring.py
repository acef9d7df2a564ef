"""The products of a weight format, timed on this processor.

Each candidate is timed on a sample matrix, of the size of the model's own matrices up to a limit.
The input has one row (decode), a few rows (a pass of speculative decoding), or more, up to one
chunk of a prompt (prefill). The candidates are compared by the estimated time of a whole turn, most
of which is decode.
"""

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from llama_cpu.errors import UserError
from llama_cpu.weights.kernel_linear import FEW_ROWS, KernelLinear
from llama_cpu.weights.linear import PREFILL_CHUNK
from llama_cpu.weights.many_rows import MANY_ROWS
from llama_cpu.weights.operations import Product, W
from llama_cpu.weights.weight_format import WeightFormat

DRAFTED_ROWS = (2, 4, 8)  # passes of speculative decoding
ROWS = (1, *DRAFTED_ROWS, 16, 32, MANY_ROWS, PREFILL_CHUNK)
# From each of these on, a kernel may leave all rows to the product for many.
GIVING_WAY = (8, 16, 32)
# The turn whose time is compared: an answer of this many tokens for one chunk of a prompt.
_ANSWER = 256
_DRAFTED = 1 / 8  # fraction of the answer's passes that check a draft of several tokens
_LARGEST_SAMPLE = 1 << 22  # maximum values of the sample
_MANY_ROWS_SAMPLE = 1 << 20  # maximum values of its part that many rows are multiplied by
# Bytes of all copies of a sample: more than most caches hold, since decode reads from memory.
_ALL_COPIES = 48 << 20
_MOST_COPIES = 24
_CALLS = 4  # calls per round; the fastest counts, because other programs may disturb the rest
_LEAST_ROUNDS, _MOST_ROUNDS = 4, 16
# After this time only one row is timed, and no further round begins once _LEAST_ROUNDS are done.
# The whole measurement then takes 3 s at most, even where a product is twenty times as slow as
# another.
_SECONDS = 1.5
_ALL_ROWS = 3  # one row is timed in every round, as it matters most, the rest once in this many
# A product replaces a preferred one only if it takes less than this fraction of the time ...
_CLEARLY = 0.85
# ... and of each round in at least this fraction of the rounds, so that a disturbance does not
# decide, ...
_MOSTLY = 0.75
# ... and if prompts and decode each take at most this multiple of the time: neither pays for the
# other. Products that decode with the same code differ by less than that.
_SLOWER_PROMPT, _SLOWER_DECODE = 1.1, 1.05
_HARDLY_LONGER = 1.5  # several rows "take hardly longer" up to this multiple of one row's time


@dataclass(frozen=True)
class Measurement:
    """The products chosen for a format on this processor, and the times behind the choice."""

    product: str  # name of the product for the layers
    in_place: str  # name of the product for matrices that must not be repacked
    rows_at_once: int  # number of rows that take hardly longer than one with ``product``
    in_place_rows_at_once: int  # the same number with ``in_place``
    few_rows: int  # number of rows up to which the kernel of ``product`` is the fastest, if any
    in_place_few_rows: int  # the same number with ``in_place``
    # Name of each candidate -> each of ROWS -> seconds for a matrix of ``sample_shape``.
    seconds: Mapping[str, Mapping[int, float]]


def sample_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape [out, in] of the matrix that products are timed with.

    ``shape``: that of the model's largest layer matrix.
    """
    return _at_most(_LARGEST_SAMPLE, shape)


def measure(
    weight_format: WeightFormat,
    products: Sequence[Product[Any]],
    sample: tuple[int, int],
    threads: int,
    clock: Callable[[], float],
) -> Measurement:
    """Time ``products`` and choose from them; they are in order of preference.

    ``sample``: the result of ``sample_shape``. ``clock`` returns seconds. Takes up to 3 s. Raises
    UserError if there is not enough memory for the sample.
    """
    with torch.inference_mode(), _threads(threads):
        candidates = _candidates(weight_format, products, sample)
        _time(candidates, sample[1], clock)
    part = _at_most(_MANY_ROWS_SAMPLE, sample)[0] / sample[0]
    for candidate in candidates:
        candidate.finish(part)
    for candidate in candidates:
        candidate.share(candidates)
    best = _best(candidates)
    in_place = _best([each for each in candidates if each.product.in_place])
    return Measurement(
        best.product.name,
        in_place.product.name,
        best.rows_at_once(),
        in_place.rows_at_once(),
        best.few_rows,
        in_place.few_rows,
        {each.product.name: {rows: each.least(rows) for rows in ROWS} for each in candidates},
    )


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

    def __init__(self, product: Product[W], weights: Iterable[W], smaller: W) -> None:
        """``smaller``: the part of the sample that many rows are multiplied by."""
        self.product = product
        self._linears = itertools.cycle([product.make(weight) for weight in weights])
        self._of_many_rows = product.make(smaller)
        # Number of rows -> the shortest time of each round, in seconds.
        self.seconds: dict[int, list[float]] = defaultdict(list)
        # The same, for some numbers of rows, without the kernel for few rows.
        self._seconds_of_many: dict[int, list[float]] = defaultdict(list)
        self.few_rows = FEW_ROWS  # number of rows up to which the kernel is the fastest

    def time_round(self, x: Tensor, clock: Callable[[], float]) -> None:
        """Multiply x [rows, in] a few times and record the shortest time."""
        rows = x.shape[0]
        if rows < MANY_ROWS and self.product.few_rows_as:
            return  # the other product's times count
        least = math.inf
        for _ in range(_CALLS if rows in (1, *DRAFTED_ROWS) else 1):
            linear = self._of_many_rows if rows >= MANY_ROWS else next(self._linears)
            began = clock()
            linear(x)
            least = min(least, clock() - began)
        self.seconds[rows].append(least)
        if rows in GIVING_WAY and isinstance(linear := next(self._linears), KernelLinear):
            began = clock()
            linear.many(x)
            self._seconds_of_many[rows].append(clock() - began)

    def clear(self) -> None:
        """Forget the times."""
        self.seconds.clear()
        self._seconds_of_many.clear()

    def finish(self, part: float) -> None:
        """Decide up to how many rows the kernel is used, once all times are measured.

        ``part``: the size of the sample for many rows, as a fraction of the sample for few; their
        times are converted.
        """
        for rows in (MANY_ROWS, PREFILL_CHUNK):
            self.seconds[rows] = [seconds / part for seconds in self.seconds[rows]]
        for rows in sorted(self._seconds_of_many, reverse=True):
            if min(self._seconds_of_many[rows]) > self.least(rows):
                break
            self.few_rows = rows - 1
            self.seconds[rows] = self._seconds_of_many[rows]

    def share(self, candidates: Iterable["_Candidate[Any]"]) -> None:
        """Take the times of few rows from the product that does the same, if there is one."""
        for other in candidates:
            if other.product.name == self.product.few_rows_as:
                self.seconds |= {n: other.seconds[n] for n in ROWS if n < MANY_ROWS}
                self.few_rows = other.few_rows

    def least(self, rows: int) -> float:
        """Return the shortest time of this number of rows, in seconds."""
        return min(self.seconds[rows])

    def one_row(self) -> float:
        """Return the time of one row in seconds.

        More rows cannot take less time. If they did, the measurement of one row was disturbed.
        """
        return min(self.least(rows) for rows in (1, *DRAFTED_ROWS))

    def rows_at_once(self) -> int:
        """Return the largest number of rows that takes hardly longer than one row."""
        one = self.one_row()
        quick = [rows for rows in DRAFTED_ROWS if self.least(rows) <= _HARDLY_LONGER * one]
        return max(quick, default=1)

    def turn(self) -> float:
        """Return the estimated time of a turn in the best case, in seconds per matrix."""
        return _turn(self.one_row(), self.least(DRAFTED_ROWS[-1]), self.least(PREFILL_CHUNK))

    def turns(self) -> list[float]:
        """Return the time of a turn by the rounds in which all numbers of rows were timed."""
        rounds = zip(
            self.seconds[1][::_ALL_ROWS],
            self.seconds[DRAFTED_ROWS[-1]],
            self.seconds[PREFILL_CHUNK],
            strict=False,
        )
        return [_turn(*seconds) for seconds in rounds]


def _turn(one_row: float, drafted_rows: float, prompt: float) -> float:
    return _ANSWER * ((1 - _DRAFTED) * one_row + _DRAFTED * drafted_rows) + prompt


def _candidates(
    weight_format: WeightFormat, products: Sequence[Product[Any]], sample: tuple[int, int]
) -> list[_Candidate[Any]]:
    weight, smaller = (
        weight_format.operations.convert([_Sample(shape)], _new)
        for shape in (sample, _at_most(_MANY_ROWS_SAMPLE, sample))
    )
    copies = min(_MOST_COPIES, max(2, _ALL_COPIES // weight_format.nbytes(sample)))
    weights = [weight, *(copy.deepcopy(weight) for _ in range(copies - 1))]
    return [
        _Candidate(product, [] if product.few_rows_as else weights, smaller) for product in products
    ]


def _time(candidates: Sequence[_Candidate[Any]], columns: int, clock: Callable[[], float]) -> None:
    began = clock()
    inputs = [torch.randn(rows, columns) for rows in ROWS]
    for candidate in candidates:  # warm up: the first product of each size compiles its kernel
        for x in inputs:
            candidate.time_round(x, clock)
        candidate.clear()
    for done in range(_MOST_ROUNDS):
        is_late = clock() - began > _SECONDS
        if is_late and done >= _LEAST_ROUNDS:
            break
        all_rows = done == 0 or (done % _ALL_ROWS == 0 and not is_late)
        for x in inputs if all_rows else inputs[:1]:
            for candidate in candidates:
                candidate.time_round(x, clock)


def _at_most(values: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Reduce a shape to at most ``values`` values, in whole blocks of 64 rows (at least one)."""
    rows, columns = shape
    return min(rows, max(64, values // columns // 64 * 64)), columns


def _new(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        raise UserError("There is not enough memory to measure the processor's speed.") from error


def _best(candidates: Sequence[_Candidate[Any]]) -> _Candidate[Any]:
    """Choose by the time of a turn, after the best way to multiply many rows of each product."""
    best, *others = [
        _best_for_many_rows(each, candidates) for each in candidates if not each.product.few_rows_as
    ]
    for other in others:
        reads = other.least(PREFILL_CHUNK) <= _SLOWER_PROMPT * best.least(PREFILL_CHUNK)
        decodes = other.one_row() <= _SLOWER_DECODE * best.one_row()
        is_clear = other.turn() < _CLEARLY * best.turn()
        if reads and decodes and is_clear and _mostly_less(other.turns(), best.turns()):
            best = other
    return best


def _best_for_many_rows(
    product: _Candidate[Any], candidates: Sequence[_Candidate[Any]]
) -> _Candidate[Any]:
    """Return the product or one that differs from it for many rows only."""
    best = product
    for other in candidates:
        if other.product.few_rows_as != product.product.name:
            continue
        prompts, best_prompts = other.seconds[PREFILL_CHUNK], best.seconds[PREFILL_CHUNK]
        is_clear = min(prompts) < _CLEARLY * min(best_prompts)
        short_prompts = other.least(MANY_ROWS) <= _SLOWER_PROMPT * best.least(MANY_ROWS)
        if is_clear and short_prompts and _mostly_less(prompts, best_prompts):
            best = other
    return best


def _mostly_less(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    rounds = list(zip(ours, theirs, strict=True))
    return sum(our < their for our, their in rounds) >= _MOSTLY * len(rounds)
