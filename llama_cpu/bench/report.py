"""Everything that is known of a model's speed on this machine, as one object."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llama_cpu import __version__
from llama_cpu.bench.limits import Work, tensor_bytes
from llama_cpu.bench.measure import Results, SeveralRows, Speed
from llama_cpu.loading.load import LoadedModel
from llama_cpu.loading.memory_estimate import MemoryEstimate, widest_product
from llama_cpu.loading.plan import LoadPlan
from llama_cpu.system.memory import MemoryReport, memory_report
from llama_cpu.system.processor import processor_name
from llama_cpu.weights.choice import MeasuredOperators
from llama_cpu.weights.measuring import Measurement, sample_shape


def work_of(plan: LoadPlan) -> Work:
    """Return what the planned model has to read and to compute.

    Must be called before the model is loaded, because that releases the tensors.
    """
    config = plan.checkpoint.config
    sizes = tensor_bytes(config, plan.precision, plan.checkpoint.tensors)
    return Work(config, plan.precision.label, sizes, plan.cache_dtype)


@dataclass(frozen=True)
class Report:
    """The model, how it runs here, its memory now, and the measured speeds."""

    plan: LoadPlan
    processor: str
    measurement: Measurement | None  # behind the choice of products; None: there was no choice
    sample: tuple[int, int]  # shape [out, in] of the matrix that was measured
    weights_bytes: int
    kv_cache_tokens: int  # the most that were in the KV cache
    kv_cache_used: int  # their bytes
    memory: MemoryReport
    estimate: MemoryEstimate
    results: Results
    is_stopped: bool  # by Ctrl+C, so that results are missing

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        estimate: MemoryEstimate,
        operators: MeasuredOperators,
        results: Results,
        is_stopped: bool,
    ) -> "Report":
        """Collect the report, and measure the memory now."""
        plan, cache = loaded.plan, loaded.cache
        shape = widest_product(plan.checkpoint.config)
        return cls(
            plan,
            processor_name(),
            operators.measurement(plan.precision, shape, plan.threads),
            sample_shape(shape),
            loaded.weights_bytes,
            cache.most_used,
            cache.most_used * cache.bytes_per_token,
            memory_report(),
            estimate,
            results,
            is_stopped,
        )

    @property
    def limits(self) -> dict[str, float]:
        """The median speeds of the machine: bytes or operations per second."""
        return {name: statistics.median(all_) for name, all_ in self.results.limits.items()}

    def as_object(self) -> dict[str, Any]:
        """Return the report as JSON has it: seconds, bytes, tokens, operations per second."""
        results = self.results
        return {
            "version": __version__,
            "torch": str(torch.__version__),
            "processor": self.processor,
            "threads": self.plan.threads,
            "model": self.plan.name,
            "precision": self.plan.precision.label,
            "memory_mapped": self.plan.mmap,
            "context": self.plan.max_seq_len,
            "kv_cache_type": str(self.plan.cache_dtype).removeprefix("torch."),
            "products": self._products(),
            "prefill": _speed(results.prefill, "prompt_tokens"),
            "decode": [_speed(speed, "context") for speed in results.decode],
            "several_rows": _several_rows(results.several_rows),
            "memory": {
                "weights_bytes": self.weights_bytes,
                "kv_cache_used_bytes": self.kv_cache_used,
                "rss_bytes": self.memory.resident,
                "peak_rss_bytes": self.memory.peak,
                "estimate": asdict(self.estimate) | {"total": self.estimate.total},
            },
            "limits": {
                name: {"per_second": speed, "way": results.ways.get(name, "")}
                for name, speed in self.limits.items()
            },
            "llama_cpp": results.llama_cpp or None,
            "notes": results.notes,
            "stopped": self.is_stopped,
        }

    def _products(self) -> Mapping[str, Any]:
        """Return the products in use, and the times behind their choice."""
        choice = self.plan.products
        return {
            "layers": choice.product.name,
            "in_place": choice.in_place.name,
            "rows_at_once": choice.rows_at_once,
            "kernel_rows": self.measurement.few_rows if self.measurement else None,
            "measured_shape": list(self.sample) if self.measurement else None,
            "seconds": self.measurement.seconds if self.measurement else {},
        }


def _speed(speed: Speed | None, length: str) -> dict[str, Any] | None:
    if speed is None:
        return None
    return {
        length: speed.tokens,
        "tokens_per_second": speed.rate,
        "seconds": list(speed.seconds),
        "of_limit": speed.of_limit,
        "llama_cpp_tokens_per_second": speed.llama_cpp_rate,
        "llama_cpp_seconds": list(speed.llama_cpp_seconds),
        "ratio": speed.ratio,
    }


def _several_rows(rows: SeveralRows | None) -> dict[str, Any] | None:
    return None if rows is None else asdict(rows) | {"relative": rows.relative}
