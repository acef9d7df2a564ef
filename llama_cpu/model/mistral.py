"""Mistral 7B and its descendants (Jiang et al., arXiv:2310.06825).

A LLaMA in which every layer may have a sliding window: a token attends to itself and the
``sliding_window - 1`` tokens before it. Versions from 0.2 on have no window.

In llama.cpp's GGUF files of Mistral the architecture is ``llama``, and the window is missing.
"""

from llama_cpu.errors import UserError
from llama_cpu.model import config_fields, llama
from llama_cpu.model.architecture import Architecture
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.tensors import LLAMA_TENSORS
from llama_cpu.model.transformer import build_block
from llama_cpu.system.fields import Fields

_DEFAULT_WINDOW = 4096  # if the field is missing in config.json; null means no window


def config_from_hugging_face(fields: Fields) -> ModelConfig:
    """Map config.json of a MistralForCausalLM."""
    config = config_fields.config_from_hugging_face(fields, "mistral")
    window = config_fields.optional_window(fields, default=_DEFAULT_WINDOW)
    config = config_fields.with_sliding_window(config, fields, window, range(config.n_layers))
    if 0 < len(config.sliding_layers) < config.n_layers:
        raise UserError(
            f"{fields.file}: only some layers have a sliding window; a Mistral with one in all "
            "layers or in none is supported."
        )
    return config


MISTRAL = Architecture(
    name="Mistral",
    key="mistral",
    gguf_key="llama",  # GGUF files are therefore read by LLaMA's entry, which comes first
    tensors=LLAMA_TENSORS,
    config_from_hugging_face=config_from_hugging_face,
    config_from_gguf=llama.config_from_gguf,
    build_block=build_block,
)
