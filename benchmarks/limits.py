"""The limits of a task of the benchmarks, by the arithmetic of ``llama_cpu.bench.limits``."""

import math

from benchmarks.models import ModelFiles
from benchmarks.workers.protocol import Task
from llama_cpu.bench import limits
from llama_cpu.bench.machine_speed import MachineSpeed
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.weights.formats import format_of


def tensor_bytes(files: ModelFiles, precision: str) -> dict[str, int]:
    """Return the bytes of each tensor in memory in this precision."""
    return limits.tensor_bytes(files.config, format_of(precision), files.tensors)


def work(files: ModelFiles, precision: str) -> limits.Work:
    """Return what the model has to read and to compute in this precision."""
    cache_dtype = format_of(precision).cache_dtype
    return limits.Work(files.config, precision, tensor_bytes(files, precision), cache_dtype)


def bits_per_weight(files: ModelFiles, precision: str) -> float:
    """Return the bits that a weight of the matrices takes, with its share of the scales."""
    sizes = tensor_bytes(files, precision)
    shapes = tensor_shapes(files.config)
    matrices = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    return 8 * sum(sizes[name] for name in matrices) / sum(matrices.values())


def prefill_seconds(files: ModelFiles, precision: str, task: Task, machine: MachineSpeed) -> float:
    """Return the shortest possible time to prefill the tokens of a task that are not kept."""
    return work(files, precision).prefill_seconds(task.prompt - task.keep, machine, task.keep)
