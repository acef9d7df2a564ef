"""The choice between the products of a weight format: measured once on each processor, then stored.

``measuring.py`` times the products, and ``stored_choice.py`` keeps the result on disk.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from llama_cpu.errors import UserError
from llama_cpu.system.paths import products_path
from llama_cpu.weights.kernel_linear import FEW_ROWS, with_few_rows
from llama_cpu.weights.measuring import (
    DRAFTED_ROWS,
    GIVING_WAY,
    ROWS,
    Measurement,
    measure,
    sample_shape,
)
from llama_cpu.weights.operations import Operations, Product, ProductChoice, W, product_named
from llama_cpu.weights.stored_choice import Circumstances, StoredChoices
from llama_cpu.weights.weight_format import WeightFormat

_TOO_SMALL = 1 << 18  # values of a matrix below which the call takes longer than the product


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
    """Times the products of a format once per processor, shape and number of threads.

    One object is used for a whole run of the program, so that the same model always gets the same
    products.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        stored: StoredChoices | None = None,
        retune: bool = False,
        on_measure: Callable[[], None] = lambda: None,
    ) -> None:
        """Make operators that have not measured anything yet.

        ``clock`` returns seconds. ``stored``: the measurements of earlier runs; None: do not store
        any. ``retune``: measure again what was stored by an earlier run. ``on_measure`` is called
        before each measurement, which also compiles the kernels that it times.
        """
        self._clock, self._stored, self._retune = clock, stored, retune
        self._on_measure = on_measure
        self._measured: dict[tuple[WeightFormat, tuple[int, int], int], Measurement | None] = {}

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        measurement = self.measurement(weight_format, shape, threads)
        operations = weight_format.operations
        return preferred(operations) if measurement is None else _chosen(operations, measurement)

    def measurement(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> Measurement | None:
        """Return the stored times of the products and the choice, or measure them.

        ``shape``: that of the model's largest layer matrix. Returns None if there is nothing to
        choose, if the matrix is too small, or if there is no memory to measure.
        """
        if math.prod(shape) < _TOO_SMALL or len(_working(weight_format.operations)) == 1:
            return None
        key = weight_format, sample_shape(shape), threads
        if key not in self._measured:
            self._measured[key] = self._find(*key) or self._measure(*key)
        return self._measured[key]

    def _find(
        self, weight_format: WeightFormat, sample: tuple[int, int], threads: int
    ) -> Measurement | None:
        """Return the stored measurement if it fits the products that work here."""
        if self._stored is None or self._retune:
            return None
        found = self._stored.find(Circumstances.here(weight_format.label, sample, threads))
        fits = found is not None and _fits(found, _working(weight_format.operations))
        return found if fits else None

    def _measure(
        self, weight_format: WeightFormat, sample: tuple[int, int], threads: int
    ) -> Measurement | None:
        working = _working(weight_format.operations)
        self._on_measure()
        try:
            result = measure(weight_format, working, sample, threads, self._clock)
        except UserError:  # no memory for the sample, so the model will not fit either
            return None
        if self._stored is not None:
            here = Circumstances.here(weight_format.label, sample, threads)
            self._stored.keep(here, result)
        return result


def stored_operators(
    retune: bool = False, on_measure: Callable[[], None] = lambda: None
) -> MeasuredOperators:
    """Return the operators of the program, which keep measurements in the user's cache folder.

    ``retune``: measure again what is stored there. ``on_measure`` is called before a measurement.
    """
    stored = StoredChoices(products_path())
    return MeasuredOperators(stored=stored, retune=retune, on_measure=on_measure)


def _fits(found: Measurement, working: list[Product[Any]]) -> bool:
    """Return whether the measurement is of exactly these products, and its choice is possible."""
    in_place = [product.name for product in working if product.in_place]
    return (
        set(found.seconds) == {product.name for product in working}
        and all(set(seconds) == set(ROWS) for seconds in found.seconds.values())
        and found.product in found.seconds
        and found.in_place in in_place
        and {found.rows_at_once, found.in_place_rows_at_once} <= {1, *DRAFTED_ROWS}
        and {found.few_rows, found.in_place_few_rows} <= {FEW_ROWS, *(n - 1 for n in GIVING_WAY)}
    )


def _chosen(operations: Operations[W], measurement: Measurement) -> ProductChoice[W]:
    product = product_named(operations, measurement.product)
    in_place = product_named(operations, measurement.in_place)
    return ProductChoice(
        with_few_rows(product, measurement.few_rows),
        with_few_rows(in_place, measurement.in_place_few_rows),
        measurement.rows_at_once,
        measurement.in_place_rows_at_once,
    )


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
