"""The formats that a matrix may have in memory, and the names of their compiled functions.

Importing this module imports no compiler: ``kernels.compiler`` finds the functions by name, and
only if their code is not cached.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelFormat:
    """A format; ``multiply`` and ``widen`` are the functions ``module.function`` of this package.

    ``rounds_inputs``: whether products take inputs rounded to 8 bits in groups of 32.
    """

    multiply: str
    widen: str | None
    rounds_inputs: bool


# The quantized formats are those of ggml (ggml-common.h), and have its names.
FORMATS = {
    "F32": KernelFormat("float32.multiply", None, False),
    "F16": KernelFormat("float16.multiply", "float16.widen", False),
    "BF16": KernelFormat("bfloat16.multiply", "bfloat16.widen", False),
    "INT8": KernelFormat("int8.multiply", "int8.widen", False),
    "Q4_0": KernelFormat("q4.multiply_0", "q4.widen_0", True),
    "Q4_1": KernelFormat("q4.multiply_1", "q4.widen_1", True),
    "Q5_0": KernelFormat("q5.multiply_0", "q5.widen_0", True),
    "Q5_1": KernelFormat("q5.multiply_1", "q5.widen_1", True),
    "Q8_0": KernelFormat("q8.multiply", "q8.widen", True),
    "IQ4_NL": KernelFormat("iq4.multiply_nl", "iq4.widen_nl", True),
    "IQ4_XS": KernelFormat("iq4.multiply_xs", "iq4.widen_xs", True),
    "Q2_K": KernelFormat("q2_k.multiply_2", "q2_k.widen_2", True),
    "Q3_K": KernelFormat("q2_k.multiply_3", "q2_k.widen_3", True),
    "Q4_K": KernelFormat("q4_k.multiply_4", "q4_k.widen_4", True),
    "Q5_K": KernelFormat("q4_k.multiply_5", "q4_k.widen_5", True),
    "Q6_K": KernelFormat("q6_k.multiply", "q6_k.widen", True),
}
