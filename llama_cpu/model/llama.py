"""LLaMA 1 to 3 (Touvron et al., arXiv:2302.13971; Grattafiori et al., arXiv:2407.21783).

The basic architecture: grouped-query attention with rotary embedding, SwiGLU and RMSNorm. It is the
only one with files in Meta's layout, whose tensor names this program uses for all architectures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_cpu.model import config_fields
from llama_cpu.model.architecture import Architecture
from llama_cpu.model.config import ModelConfig, RopeScaling, check_config
from llama_cpu.model.tensors import LLAMA_TENSORS
from llama_cpu.model.transformer import build_block
from llama_cpu.system.fields import Fields


def config_from_hugging_face(fields: Fields) -> ModelConfig:
    """Map config.json of a LlamaForCausalLM."""
    return config_fields.config_from_hugging_face(fields, "llama")


def config_from_gguf(fields: Fields, vocab_size: int, tied_output: bool) -> ModelConfig:
    """Map metadata of architecture ``llama``. Rotary pairs are adjacent, as in Meta's files."""
    return config_fields.config_from_gguf(
        fields, "llama", vocab_size, tied_output, interleaved=True
    )


LLAMA = Architecture(
    name="LLaMA",
    key="llama",
    gguf_key="llama",
    tensors=LLAMA_TENSORS,
    config_from_hugging_face=config_from_hugging_face,
    config_from_gguf=config_from_gguf,
    build_block=build_block,
)


def config_from_meta(
    values: Mapping[str, Any], file: Path, hidden_dim: int, vocab_size: int, tied_output: bool
) -> ModelConfig:
    """Map params.json of LLaMA 1, Llama 2, Code Llama and Llama 3.

    ``hidden_dim`` and ``vocab_size`` come from the shapes of the tensors: in params.json the first
    can only be derived from ``multiple_of``, and the second may be -1. Raises UserError if a field
    is wrong.
    """
    fields = Fields(values, file)
    dim = fields.integer("dim", 1, 1 << 20)
    n_heads = fields.integer("n_heads", 1, 4096)
    rope_theta = fields.number("rope_theta", 1.0, 1e12, default=10000.0)
    scaled = fields.flag("use_scaled_rope")
    config = ModelConfig(
        dim=dim,
        n_layers=fields.integer("n_layers", 1, 10_000),
        n_heads=n_heads,
        n_kv_heads=fields.integer("n_kv_heads", 1, 4096, default=n_heads),
        head_dim=fields.integer("head_dim", 2, 4096, default=max(2, dim // n_heads)),
        hidden_dim=hidden_dim,
        vocab_size=vocab_size,
        norm_eps=fields.number("norm_eps", 0.0, 1.0),
        rope_theta=rope_theta,
        context_length=fields.integer(
            "max_seq_len", 1, 1 << 28, default=_meta_context(fields, rope_theta, scaled)
        ),
        context_is_guess=not fields.has("max_seq_len"),
        rope_scaling=RopeScaling(_meta_rope_factor(fields, dim)) if scaled else None,
        tied_output=tied_output,
    )
    return check_config(config, file)


def _meta_context(fields: Fields, rope_theta: float, scaled: bool) -> int:
    """Guess the context length, which params.json lacks, from the other fields.

    LLaMA 1 and Llama 2 cannot always be distinguished: norm_eps is 1e-6 in all LLaMA 1 models
    except 65B, but also in the chat version of Llama 2 7B. The shorter guess does no harm, because
    --max_seq_len may exceed it.
    """
    if scaled:
        return 131072  # Llama 3.1, 3.2
    if rope_theta == 500_000:
        return 8192  # Llama 3
    if rope_theta == 1_000_000:
        return 16384  # Code Llama
    is_65b = fields.values.get("n_layers") == 80 and not fields.has("n_kv_heads")
    return 2048 if is_65b or fields.values.get("norm_eps") == 1e-6 else 4096


def _meta_rope_factor(fields: Fields, dim: int) -> float:
    """Return the factor of Llama 3.1's rotary scaling, which is missing in Meta's files.

    Llama 3.2's small models (dim 2048 and 3072) use 32, according to Hugging Face's config.json
    of the same weights; Llama 3.1 uses 8.
    """
    return fields.number(
        "rope_scaling_factor", 1.0, 1e4, default=32.0 if dim in (2048, 3072) else 8.0
    )
