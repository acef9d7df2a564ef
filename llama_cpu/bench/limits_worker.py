"""Worker that measures the limits of the machine, so that its arrays are not in our memory.

It answers "read" with bytes per second and "products" with operations per second by type.
"""

import os
from typing import Any

from llama_cpu.bench.worker import Answer, serve
from llama_cpu.system.process import prepare_for_torch


def load(options: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    """Find the fastest ways. ``options``: the number of ``threads``."""
    threads = options["threads"]
    prepare_for_torch()
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)  # read when NumPy is imported
    from llama_cpu.bench.machine_speed import MemoryReader, fastest_products

    reader, products = MemoryReader(threads), fastest_products(threads)

    def answer(question: dict[str, Any]) -> Any:
        if question["what"] == "read":
            return reader.best()
        return {kind: product() for kind, product in products.items()}

    ways = {"read": reader.way} | {kind: product.way for kind, product in products.items()}
    return ways, answer


if __name__ == "__main__":
    serve(load)
