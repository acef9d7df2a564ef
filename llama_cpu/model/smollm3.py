"""SmolLM3 (Bakouch et al., Hugging Face, "SmolLM3: smol, multilingual, long-context reasoner").

A LLaMA with a tied output in which every fourth layer has no rotary embedding (NoPE, Yang et al.,
arXiv:2501.18795).
"""

from dataclasses import replace

from llama_cpu.errors import UserError
from llama_cpu.model import config_fields
from llama_cpu.model.architecture import Architecture
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.tensors import LLAMA_TENSORS
from llama_cpu.model.transformer import build_block
from llama_cpu.system.fields import Fields

_INTERVAL = 4  # every fourth layer has no rotary embedding


def config_from_hugging_face(fields: Fields) -> ModelConfig:
    """Map config.json of a SmolLM3ForCausalLM."""
    config = config_fields.config_from_hugging_face(fields, "smollm3", tied_output=True)
    unrotated = _unrotated_layers(fields, config.n_layers)
    window = None
    if fields.flag("use_sliding_window"):
        window = config_fields.optional_window(fields, default=None)
    config = config_fields.with_sliding_window(config, fields, window, unrotated)
    return replace(config, unrotated_layers=unrotated)


def _unrotated_layers(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """Return the layers without rotary embedding.

    These have a 0 in ``no_rope_layers``; despite the name, a 1 means that the layer is rotated.
    """
    rotated = fields.values.get("no_rope_layers")
    if rotated is None:
        interval = fields.integer("no_rope_layer_interval", 1, 10_000, default=_INTERVAL)
        return tuple(range(interval - 1, n_layers, interval))
    if not isinstance(rotated, list) or len(rotated) < n_layers:
        raise UserError(
            f"{fields.file}: 'no_rope_layers' must list the {n_layers} layers; get a good copy of "
            "this file."
        )
    rotated = rotated[:n_layers]
    if any(flag not in (0, 1) for flag in rotated):
        raise UserError(
            f"{fields.file}: 'no_rope_layers' must hold zeros and ones; get a good copy of this "
            "file."
        )
    return tuple(layer for layer, flag in enumerate(rotated) if not flag)


def config_from_gguf(fields: Fields, vocab_size: int, tied_output: bool) -> ModelConfig:
    """Map metadata of architecture ``smollm3``.

    The metadata lacks the interval of layers without rotary embedding, which is fixed in llama.cpp,
    and the order of rotary pairs: its converter makes them adjacent, as for LLaMA.
    """
    config = config_fields.config_from_gguf(
        fields, "smollm3", vocab_size, tied_output, interleaved=True
    )
    unrotated = tuple(range(_INTERVAL - 1, config.n_layers, _INTERVAL))
    return replace(config, unrotated_layers=unrotated)


SMOLLM3 = Architecture(
    name="SmolLM3",
    key="smollm3",
    gguf_key="smollm3",
    tensors=LLAMA_TENSORS,
    config_from_hugging_face=config_from_hugging_face,
    config_from_gguf=config_from_gguf,
    build_block=build_block,
)
