"""An opened checkpoint, the result of every reader, and the check of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.model.architectures import architecture_of
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.tensors import shapes_of


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, opened but not loaded.

    Whatever the file format, ``tensors`` has Meta's names (``layers.0.attention.wq.weight``). It
    contains exactly the tensors that ``tensor_shapes(config)`` lists.
    """

    path: Path  # the folder, or the GGUF file
    name: str
    config: ModelConfig
    tensors: dict[str, StoredTensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)  # GGUF files only


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a model with this configuration."""
    return shapes_of(architecture_of(config).tensors, config)


def check_tensors(config: ModelConfig, tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Check that names and shapes are those of the configuration.

    Raises UserError, naming the tensor, if one is missing, unknown, or of another shape or type.
    """
    # The number of layers is checked first: an absurd number would create as many names below.
    layers = {name.split(".")[1] for name in tensors if name.startswith("layers.")}
    if len(layers) != config.n_layers:
        raise UserError(
            f"{path}: the configuration names {config.n_layers} layers but the files hold "
            f"{len(layers)}; they do not belong together or are not complete."
        )
    shapes = tensor_shapes(config)
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(
                f"{path}: the tensor '{name}' is missing; get a complete copy of the model."
            )
        if tensors[name].shape != shape:
            raise UserError(
                f"{path}: the tensor '{name}' has the shape {_by(tensors[name].shape)}, but the "
                f"configuration asks for {_by(shape)}; they do not belong together."
            )
        dtype = tensors[name].dtype
        if dtype is not None and not dtype.is_floating_point:
            raise UserError(
                f"{path}: the tensor '{name}' holds {dtype}, not floating-point numbers."
            )
    extra = sorted(tensors.keys() - shapes.keys())
    if extra:
        raise UserError(
            f"{path}: the tensor '{extra[0][:80]}' belongs to no {architecture_of(config).name} "
            "model that is known."
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
