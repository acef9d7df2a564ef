"""What a checkpoint says of its model, from any of the three formats, in one frozen dataclass."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.system.fields import Fields


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of slow rotary frequencies (Meta, llama_models ``apply_scaling``)."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a LLaMA transformer."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int  # width of the feed-forward layer
    vocab_size: int  # rows of the embedding
    norm_eps: float
    rope_theta: float
    context_length: int  # what the model was trained for, in tokens
    context_is_guess: bool = False  # the file does not say it
    rope_scaling: RopeScaling | None = None
    rope_factors: tuple[float, ...] | None = (
        None  # the same, as GGUF has it: one for each frequency
    )
    rope_linear_factor: float = 1.0  # positions are divided by it ("linear" scaling)
    rope_interleaved: bool = True  # rotary pairs are neighbours (Meta, GGUF), else halves
    tied_output: bool = False  # the output matrix is the embedding

    def kv_cache_bytes(self, context: int, itemsize: int) -> int:
        """Size of a KV cache for ``context`` tokens with ``itemsize`` bytes a number."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * context * itemsize


def config_from_meta(
    values: Mapping[str, Any], file: Path, hidden_dim: int, vocab_size: int, tied_output: bool
) -> ModelConfig:
    """``params.json`` of LLaMA 1, Llama 2, Code Llama and Llama 3.

    ``hidden_dim`` and ``vocab_size`` come from the tensors' shapes: params.json gives the first
    only through ``multiple_of`` and says -1 for the second.
    """
    fields = Fields(values, file)
    dim = fields.integer("dim", 1, 1 << 20)
    n_heads = fields.integer("n_heads", 1, 4096)
    rope_theta = fields.number("rope_theta", 1.0, 1e12, default=10000.0)
    scaled = fields.flag("use_scaled_rope")
    head_dim = fields.integer("head_dim", 2, 4096, default=max(2, dim // n_heads))
    return _checked(
        ModelConfig(
            dim=dim,
            n_layers=fields.integer("n_layers", 1, 10_000),
            n_heads=n_heads,
            n_kv_heads=fields.integer("n_kv_heads", 1, 4096, default=n_heads),
            head_dim=head_dim,
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
        ),
        file,
    )


def _meta_context(fields: Fields, rope_theta: float, scaled: bool) -> int:
    """params.json names no context length; the families are told apart by what it does name.

    LLaMA 1 and 2 cannot always be: 1e-6 is in all of LLaMA 1 but its 65B, and in Llama 2's 7B
    chat model as well. The shorter guess does no harm, as --max_seq_len may exceed it.
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
    """Meta's files never say it. 3.2's small models (dim 2048 and 3072) use 32, as Hugging Face's
    config.json of the same weights has it; 3.1 uses 8."""
    return fields.number(
        "rope_scaling_factor", 1.0, 1e4, default=32.0 if dim in (2048, 3072) else 8.0
    )


def config_from_hugging_face(values: Mapping[str, Any], file: Path) -> ModelConfig:
    """``config.json`` of a LlamaForCausalLM, as transformers 4 and 5 write it."""
    model_type = values.get("model_type")
    if model_type != "llama":
        raise UserError(
            f"{file}: the architecture is {str(model_type)[:60]!r}; only 'llama' can be run."
        )
    for key in ("attention_bias", "mlp_bias"):
        if values.get(key):
            raise UserError(f"{file}: '{key}' is set; models with biases cannot be run.")
    if values.get("hidden_act", "silu") != "silu":
        raise UserError(f"{file}: 'hidden_act' is not 'silu'; this model cannot be run.")
    fields = Fields(values, file)
    dim = fields.integer("hidden_size", 1, 1 << 20)
    n_heads = fields.integer("num_attention_heads", 1, 4096)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{file}: 'rope_scaling' must be an object; get a good copy of this file.")
    theta_fields = Fields(rope, file) if rope.get("rope_theta") is not None else fields
    scaling, linear_factor = _hugging_face_rope(Fields(rope, file))
    return _checked(
        ModelConfig(
            dim=dim,
            n_layers=fields.integer("num_hidden_layers", 1, 10_000),
            n_heads=n_heads,
            n_kv_heads=fields.integer("num_key_value_heads", 1, 4096, default=n_heads),
            head_dim=fields.integer("head_dim", 2, 4096, default=max(2, dim // n_heads)),
            hidden_dim=fields.integer("intermediate_size", 1, 1 << 22),
            vocab_size=fields.integer("vocab_size", 1, 1 << 24),
            norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
            rope_theta=theta_fields.number("rope_theta", 1.0, 1e12, default=10000.0),
            context_length=fields.integer("max_position_embeddings", 1, 1 << 28, default=2048),
            rope_scaling=scaling,
            rope_linear_factor=linear_factor,
            rope_interleaved=False,
            tied_output=fields.flag("tie_word_embeddings"),
        ),
        file,
    )


def _hugging_face_rope(rope: Fields) -> tuple[RopeScaling | None, float]:
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return None, 1.0
    if kind == "linear":
        return None, rope.number("factor", 1.0, 1e4)
    if kind == "llama3":
        low = rope.number("low_freq_factor", 1e-3, 1e4)
        return (
            RopeScaling(
                factor=rope.number("factor", 1.0, 1e4),
                low_freq_factor=low,
                high_freq_factor=rope.number("high_freq_factor", low + 1e-3, 2e4),
                original_context=rope.integer("original_max_position_embeddings", 1, 1 << 28),
            ),
            1.0,
        )
    raise UserError(
        f"{rope.file}: rotary scaling {str(kind)[:60]!r} is not known; 'linear' and 'llama3' are."
    )


def config_from_gguf(
    values: Mapping[str, Any], file: Path, vocab_size: int, tied_output: bool
) -> ModelConfig:
    """Metadata of a GGUF file of architecture ``llama`` (ggml, docs/gguf.md).

    Llama 3.1's rotary scaling is not here but in the tensor ``rope_freqs.weight``.
    """
    architecture = values.get("general.architecture")
    if architecture != "llama":
        raise UserError(
            f"{file}: the architecture is {str(architecture)[:60]!r}; only 'llama' can be run."
        )
    if values.get("llama.expert_count"):
        raise UserError(f"{file} is a mixture of experts, which cannot be run.")
    fields = Fields(values, file)
    dim = fields.integer("llama.embedding_length", 1, 1 << 20)
    n_heads = fields.integer("llama.attention.head_count", 1, 4096)
    head_dim = fields.integer("llama.attention.key_length", 2, 4096, default=max(2, dim // n_heads))
    rotated = fields.integer("llama.rope.dimension_count", 1, 4096, default=head_dim)
    if rotated != head_dim:
        raise UserError(
            f"{file}: only {rotated} of {head_dim} numbers are rotated; this cannot be run."
        )
    scaling = values.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise UserError(f"{file}: rotary scaling {str(scaling)[:60]!r} is not known; 'linear' is.")
    return _checked(
        ModelConfig(
            dim=dim,
            n_layers=fields.integer("llama.block_count", 1, 10_000),
            n_heads=n_heads,
            n_kv_heads=fields.integer("llama.attention.head_count_kv", 1, 4096, default=n_heads),
            head_dim=head_dim,
            hidden_dim=fields.integer("llama.feed_forward_length", 1, 1 << 22),
            vocab_size=vocab_size,
            norm_eps=fields.number("llama.attention.layer_norm_rms_epsilon", 0.0, 1.0),
            rope_theta=fields.number("llama.rope.freq_base", 1.0, 1e12, default=10000.0),
            context_length=fields.integer("llama.context_length", 1, 1 << 28),
            rope_linear_factor=(
                fields.number("llama.rope.scaling.factor", 1.0, 1e4) if scaling == "linear" else 1.0
            ),
            tied_output=tied_output,
        ),
        file,
    )


def _checked(config: ModelConfig, file: Path) -> ModelConfig:
    if config.n_heads % config.n_kv_heads:
        raise UserError(
            f"{file}: {config.n_heads} heads cannot share {config.n_kv_heads} key-value heads "
            "evenly; get a good copy of this file."
        )
    if config.hidden_dim < 1 or config.vocab_size < 1:
        raise UserError(f"{file}: there are weights without rows; get a good copy of the model.")
    if config.head_dim % 2:
        raise UserError(f"{file}: the head size {config.head_dim} is odd and cannot be rotated.")
    return config
