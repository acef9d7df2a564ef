"""Qwen2 and Qwen2.5 (Yang et al., arXiv:2407.10671, arXiv:2412.15115).

A LLaMA with biases in wq, wk and wv. Its upper layers may have a sliding window, but none of the
published models uses it.
"""

from llama_cpu.model import config_fields
from llama_cpu.model.architecture import Architecture
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.tensors import LLAMA_TENSORS, TensorSpec
from llama_cpu.model.transformer import build_block
from llama_cpu.system.fields import Fields

_BIASES = (
    TensorSpec(
        "layers.{}.attention.wq.bias",
        "model.layers.{}.self_attn.q_proj.bias",
        "blk.{}.attn_q.bias",
        lambda config: (config.q_dim,),
    ),
    TensorSpec(
        "layers.{}.attention.wk.bias",
        "model.layers.{}.self_attn.k_proj.bias",
        "blk.{}.attn_k.bias",
        lambda config: (config.kv_dim,),
    ),
    TensorSpec(
        "layers.{}.attention.wv.bias",
        "model.layers.{}.self_attn.v_proj.bias",
        "blk.{}.attn_v.bias",
        lambda config: (config.kv_dim,),
    ),
)


def config_from_hugging_face(fields: Fields) -> ModelConfig:
    """Map config.json of a Qwen2ForCausalLM."""
    return with_upper_window(config_fields.config_from_hugging_face(fields, "qwen2"), fields)


def with_upper_window(config: ModelConfig, fields: Fields) -> ModelConfig:
    """Add the sliding window of Qwen2 and Qwen3 to the layers from ``max_window_layers`` on."""
    window = None
    if fields.flag("use_sliding_window"):
        window = config_fields.optional_window(fields, default=4096)
    first = fields.integer("max_window_layers", 0, 1 << 20, default=28)
    layers = range(min(first, config.n_layers), config.n_layers)
    return config_fields.with_sliding_window(config, fields, window, layers)


def config_from_gguf(fields: Fields, vocab_size: int, tied_output: bool) -> ModelConfig:
    """Map metadata of architecture ``qwen2``. Rotary pairs are halves, as in Hugging Face files."""
    return config_fields.config_from_gguf(
        fields, "qwen2", vocab_size, tied_output, interleaved=False
    )


QWEN2 = Architecture(
    name="Qwen2",
    key="qwen2",
    gguf_key="qwen2",
    tensors=(*LLAMA_TENSORS, *_BIASES),
    config_from_hugging_face=config_from_hugging_face,
    config_from_gguf=config_from_gguf,
    build_block=build_block,
)
