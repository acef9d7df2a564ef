"""The tensors of a model: their names in each file format, and their shapes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from llama_cpu.model.config import ModelConfig

T = TypeVar("T")

_LAYER = re.compile(r"\.(\d+)\.", re.ASCII)


@dataclass(frozen=True)
class TensorSpec:
    """The names and shape of one tensor, or of one per layer: ``{}`` stands for its number."""

    name: str  # in this program, and in Meta's files
    hugging_face: str
    gguf: str
    shape: Callable[[ModelConfig], tuple[int, ...]]

    @property
    def of_layer(self) -> bool:
        """Whether every layer has this tensor."""
        return "{}" in self.name


# The tensors of LLaMA and of the architectures derived from it. Names: Meta's llama, model.py;
# transformers, modeling_llama.py; llama.cpp, gguf-py/gguf/constants.py.
LLAMA_TENSORS = (
    TensorSpec(
        "tok_embeddings.weight",
        "model.embed_tokens.weight",
        "token_embd.weight",
        lambda config: (config.vocab_size, config.dim),
    ),
    TensorSpec(
        "layers.{}.attention_norm.weight",
        "model.layers.{}.input_layernorm.weight",
        "blk.{}.attn_norm.weight",
        lambda config: (config.dim,),
    ),
    TensorSpec(
        "layers.{}.attention.wq.weight",
        "model.layers.{}.self_attn.q_proj.weight",
        "blk.{}.attn_q.weight",
        lambda config: (config.q_dim, config.dim),
    ),
    TensorSpec(
        "layers.{}.attention.wk.weight",
        "model.layers.{}.self_attn.k_proj.weight",
        "blk.{}.attn_k.weight",
        lambda config: (config.kv_dim, config.dim),
    ),
    TensorSpec(
        "layers.{}.attention.wv.weight",
        "model.layers.{}.self_attn.v_proj.weight",
        "blk.{}.attn_v.weight",
        lambda config: (config.kv_dim, config.dim),
    ),
    TensorSpec(
        "layers.{}.attention.wo.weight",
        "model.layers.{}.self_attn.o_proj.weight",
        "blk.{}.attn_output.weight",
        lambda config: (config.dim, config.q_dim),
    ),
    TensorSpec(
        "layers.{}.ffn_norm.weight",
        "model.layers.{}.post_attention_layernorm.weight",
        "blk.{}.ffn_norm.weight",
        lambda config: (config.dim,),
    ),
    TensorSpec(
        "layers.{}.feed_forward.w1.weight",
        "model.layers.{}.mlp.gate_proj.weight",
        "blk.{}.ffn_gate.weight",
        lambda config: (config.hidden_dim, config.dim),
    ),
    TensorSpec(
        "layers.{}.feed_forward.w2.weight",
        "model.layers.{}.mlp.down_proj.weight",
        "blk.{}.ffn_down.weight",
        lambda config: (config.dim, config.hidden_dim),
    ),
    TensorSpec(
        "layers.{}.feed_forward.w3.weight",
        "model.layers.{}.mlp.up_proj.weight",
        "blk.{}.ffn_up.weight",
        lambda config: (config.hidden_dim, config.dim),
    ),
    TensorSpec(
        "norm.weight", "model.norm.weight", "output_norm.weight", lambda config: (config.dim,)
    ),
    TensorSpec(
        "output.weight",
        "lm_head.weight",
        "output.weight",
        lambda config: (config.vocab_size, config.dim),
    ),
)


def shapes_of(specs: tuple[TensorSpec, ...], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor; no ``output.weight`` if the output is tied."""
    of_layer = [spec for spec in specs if spec.of_layer]
    shapes = {}
    for spec in specs:
        if not spec.of_layer:
            shapes[spec.name] = spec.shape(config)
        elif spec is of_layer[0]:  # all tensors of layer 0, then those of layer 1, and so on
            for layer in range(config.n_layers):
                shapes |= {spec.name.format(layer): spec.shape(config) for spec in of_layer}
    if config.tied_output:
        del shapes["output.weight"]
    return shapes


def renamed(tensors: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """Rename the tensors of a file to this program's names; unknown names stay unchanged.

    ``names``: name in the file -> name in this program, with ``{}`` for the layer's number.
    """
    return {_renamed(name, names): tensor for name, tensor in tensors.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    layer = _LAYER.search(name)
    if layer is None:
        return names.get(name, name)
    pattern = f"{name[: layer.start(1)]}{{}}{name[layer.end(1) :]}"
    return names[pattern].format(layer[1]) if pattern in names else name
