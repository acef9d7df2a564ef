"""Qwen3's dense models (Yang et al., arXiv:2505.09388).

A LLaMA that normalizes the query and the key of each head before the rotary embedding. Its upper
layers may have a sliding window, as in Qwen2.
"""

from llama_cpu.model import config_fields, transformer
from llama_cpu.model.architecture import Architecture
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.norms import HeadNorm
from llama_cpu.model.qwen2 import with_upper_window
from llama_cpu.model.tensors import LLAMA_TENSORS, TensorSpec
from llama_cpu.model.transformer import Block, WeightSource
from llama_cpu.system.fields import Fields

_HEAD_NORMS = (
    TensorSpec(
        "layers.{}.attention.q_norm.weight",
        "model.layers.{}.self_attn.q_norm.weight",
        "blk.{}.attn_q_norm.weight",
        lambda config: (config.head_dim,),
    ),
    TensorSpec(
        "layers.{}.attention.k_norm.weight",
        "model.layers.{}.self_attn.k_norm.weight",
        "blk.{}.attn_k_norm.weight",
        lambda config: (config.head_dim,),
    ),
)


def build_block(config: ModelConfig, layer: int, weights: WeightSource) -> Block:
    """Build one layer. May be called repeatedly for the same layer."""
    qk_norm = HeadNorm(
        weights.norm(f"layers.{layer}.attention.q_norm"),
        weights.norm(f"layers.{layer}.attention.k_norm"),
        config.n_heads,
        config.n_kv_heads,
        config.norm_eps,
    )
    return transformer.build_block(config, layer, weights, qk_norm)


def config_from_hugging_face(fields: Fields) -> ModelConfig:
    """Map config.json of a Qwen3ForCausalLM. The default head size is 128."""
    config = config_fields.config_from_hugging_face(fields, "qwen3", head_dim=128)
    return with_upper_window(config, fields)


def config_from_gguf(fields: Fields, vocab_size: int, tied_output: bool) -> ModelConfig:
    """Map metadata of architecture ``qwen3``. Rotary pairs are halves, as in Hugging Face files."""
    return config_fields.config_from_gguf(
        fields, "qwen3", vocab_size, tied_output, interleaved=False
    )


QWEN3 = Architecture(
    name="Qwen3",
    key="qwen3",
    gguf_key="qwen3",
    tensors=(*LLAMA_TENSORS, *_HEAD_NORMS),
    config_from_hugging_face=config_from_hugging_face,
    config_from_gguf=config_from_gguf,
    build_block=build_block,
)
