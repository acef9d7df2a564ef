"""The interface of an architecture."""

from collections.abc import Callable
from dataclasses import dataclass

from llama_cpu.model.config import ModelConfig
from llama_cpu.model.tensors import TensorSpec
from llama_cpu.model.transformer import BuildBlock, Transformer, WeightSource, build_model
from llama_cpu.system.fields import Fields


@dataclass(frozen=True)
class Architecture:
    """One family of models: its configuration and tensors in files, and its forward pass.

    ``config_from_hugging_face(fields)`` maps the fields of config.json to a ModelConfig.
    ``config_from_gguf(fields, vocab_size, tied_output)`` maps the metadata of a GGUF file. Both
    raise UserError if the forward pass does not support the model.

    ``build_block`` builds one layer and may be called repeatedly for the same layer.
    ``build_model`` builds the whole model with it.
    """

    name: str  # for messages
    key: str  # "model_type" in config.json, and ModelConfig.architecture
    gguf_key: str  # "general.architecture" in a GGUF file
    tensors: tuple[TensorSpec, ...]
    config_from_hugging_face: Callable[[Fields], ModelConfig]
    config_from_gguf: Callable[[Fields, int, bool], ModelConfig]
    build_block: BuildBlock
    build_model: Callable[[ModelConfig, WeightSource, int, BuildBlock], Transformer] = build_model
