"""Choices of products that do not depend on the processor that runs the tests."""

from typing import Any

from llama_cpu.weights.operations import ProductChoice, product_named
from llama_cpu.weights.weight_format import WeightFormat


class FixedOperators:
    """Takes the named product of each format, and for weights in place that or another one.

    ``FixedOperators(bf16="packed", in_place="widened")``
    """

    def __init__(self, in_place: str = "plain", **products: str) -> None:
        self._in_place, self._products = in_place, products

    def choose(
        self, weight_format: WeightFormat, shape: tuple[int, int], threads: int
    ) -> ProductChoice[Any]:
        return choice(weight_format, self._products[weight_format.label], self._in_place)


def choice(
    weight_format: WeightFormat, product: str, in_place: str = "plain"
) -> ProductChoice[Any]:
    """The choice of these products, by their names."""
    operations = weight_format.operations
    chosen = product_named(operations, product)
    beside = chosen if chosen.in_place else product_named(operations, in_place)
    return ProductChoice(chosen, beside, chosen.rows_at_once, beside.rows_at_once)
