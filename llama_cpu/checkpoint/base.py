"""What every reader of checkpoints hands over, and the names that tensors have from then on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.model.config import ModelConfig


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, opened but not loaded.

    ``tensors`` have Meta's names (``layers.0.attention.wq.weight``) whatever the format, and are
    exactly those that ``tensor_shapes(config)`` lists.
    """

    path: Path  # the folder, or the GGUF file
    name: str
    config: ModelConfig
    tensors: dict[str, StoredTensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of a GGUF file


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this configuration has."""
    dim, hidden = config.dim, config.hidden_dim
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab_size, dim)}
    for layer in range(config.n_layers):
        prefix = f"layers.{layer}."
        shapes |= {
            prefix + "attention_norm.weight": (dim,),
            prefix + "attention.wq.weight": (q_dim, dim),
            prefix + "attention.wk.weight": (kv_dim, dim),
            prefix + "attention.wv.weight": (kv_dim, dim),
            prefix + "attention.wo.weight": (dim, q_dim),
            prefix + "ffn_norm.weight": (dim,),
            prefix + "feed_forward.w1.weight": (hidden, dim),
            prefix + "feed_forward.w2.weight": (dim, hidden),
            prefix + "feed_forward.w3.weight": (hidden, dim),
        }
    shapes["norm.weight"] = (dim,)
    if not config.tied_output:
        shapes["output.weight"] = (config.vocab_size, dim)
    return shapes


def check_tensors(config: ModelConfig, tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Raise UserError, naming the tensor, unless they are exactly the configuration's."""
    # Layers first, so that an absurd number of them is not laid out as names.
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
            f"{path}: the tensor '{extra[0][:80]}' belongs to no LLaMA model that is known."
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
