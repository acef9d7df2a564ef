"""All weight formats, in the order in which the program lists them."""

from collections.abc import Iterable

from llama_cpu.weights.as_is import AS_IS
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.weight_format import WeightFormat

FORMATS: tuple[WeightFormat, ...] = (FLOAT32, BF16, INT8, INT4, AS_IS)


def labels(formats: Iterable[WeightFormat] = FORMATS) -> tuple[str, ...]:
    """Return the labels of the formats, as written in config.toml."""
    return tuple(each.label for each in formats)


def format_of(label: str) -> WeightFormat:
    """Return the format with this label. Raises ValueError if there is none."""
    for each in FORMATS:
        if each.label == label:
            return each
    raise ValueError(f"{label!r} is none of {', '.join(labels())}")


def smaller_than(weight_format: WeightFormat) -> list[WeightFormat]:
    """Return the formats that need less memory for the same weights."""
    size = (1024, 1024)  # any matrix will do
    return [each for each in FORMATS if each.nbytes(size) < weight_format.nbytes(size)]
