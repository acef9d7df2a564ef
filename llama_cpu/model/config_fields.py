"""Reading of the configuration fields that LLaMA-like models share, in config.json and GGUF."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.model.config import ModelConfig, RopeScaling, YarnScaling, check_config
from llama_cpu.system.fields import Fields

_ATTENTION_KINDS = {"full_attention": False, "sliding_attention": True}
_ROPE_KINDS = "'linear', 'llama3' and 'yarn'"


def config_from_hugging_face(
    fields: Fields, architecture: str, head_dim: int | None = None, tied_output: bool = False
) -> ModelConfig:
    """Map config.json, as transformers 4 and 5 write it, to a ModelConfig without sliding window.

    ``head_dim`` and ``tied_output``: the architecture's defaults for fields missing in the file.
    Raises UserError if a field is wrong or not supported.
    """
    _refuse_what_is_not_implemented(fields)
    dim = fields.integer("hidden_size", 1, 1 << 20)
    n_heads = fields.integer("num_attention_heads", 1, 4096)
    context_length = fields.integer("max_position_embeddings", 1, 1 << 28, default=2048)
    rope = _hugging_face_rope(fields)
    theta = rope if rope.has("rope_theta") else fields
    scaling, linear_factor = _hugging_face_scaling(rope, context_length)
    config = ModelConfig(
        dim=dim,
        n_layers=fields.integer("num_hidden_layers", 1, 10_000),
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads", 1, 4096, default=n_heads),
        head_dim=fields.integer("head_dim", 2, 4096, default=head_dim or max(2, dim // n_heads)),
        hidden_dim=fields.integer("intermediate_size", 1, 1 << 22),
        vocab_size=fields.integer("vocab_size", 1, 1 << 24),
        norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope_theta=theta.number("rope_theta", 1.0, 1e12, default=10000.0),
        context_length=_extended(context_length, scaling),
        rope_scaling=scaling,
        rope_linear_factor=linear_factor,
        rope_interleaved=False,
        tied_output=fields.flag("tie_word_embeddings", tied_output),
        architecture=architecture,
    )
    return check_config(config, fields.file)


def _refuse_what_is_not_implemented(fields: Fields) -> None:
    for key in ("attention_bias", "mlp_bias"):
        if fields.values.get(key):
            raise UserError(f"{fields.file}: '{key}' is set, which this architecture cannot have.")
    if fields.values.get("hidden_act", "silu") != "silu":
        raise UserError(
            f"{fields.file}: 'hidden_act' is not 'silu', the only activation that is supported."
        )
    quantization = fields.values.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise UserError(
            f"{fields.file}: the weights are quantized by {str(method)[:40]!r}, which is not "
            "supported; get the original model, or a .gguf file of it."
        )


def _hugging_face_rope(fields: Fields) -> Fields:
    """Return the rotary fields: ``rope_parameters`` (transformers 5) or ``rope_scaling``."""
    name = "rope_parameters" if fields.values.get("rope_parameters") else "rope_scaling"
    rope = fields.values.get(name) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{fields.file}: '{name}' must be an object; get a good copy of this file.")
    for values in (fields.values, rope):
        if values.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise UserError(
                f"{fields.file}: 'partial_rotary_factor' is not 1; only models that rotate whole "
                "heads are supported."
            )
    return Fields(rope, fields.file)


def _hugging_face_scaling(
    rope: Fields, context_length: int
) -> tuple[RopeScaling | YarnScaling | None, float]:
    """Return the scaling of rotary frequencies, and the factor of "linear" scaling."""
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return None, 1.0
    if kind == "linear":
        return None, rope.number("factor", 1.0, 1e4)
    if kind == "llama3":
        low = rope.number("low_freq_factor", 1e-3, 1e4)
        scaling = RopeScaling(
            factor=rope.number("factor", 1.0, 1e4),
            low_freq_factor=low,
            high_freq_factor=rope.number("high_freq_factor", low + 1e-3, 2e4),
            original_context=rope.integer("original_max_position_embeddings", 1, 1 << 28),
        )
        return scaling, 1.0
    if kind == "yarn":
        return _hugging_face_yarn(rope, context_length), 1.0
    raise UserError(
        f"{rope.file}: rotary scaling {str(kind)[:60]!r} is not supported; {_ROPE_KINDS} are."
    )


def _hugging_face_yarn(rope: Fields, context_length: int) -> YarnScaling:
    if rope.has("mscale") or rope.has("mscale_all_dim") or rope.values.get("truncate") is False:
        raise UserError(
            f"{rope.file}: YaRN with 'mscale', 'mscale_all_dim' or 'truncate' is not supported, "
            "only with a factor and a range of frequencies."
        )
    slow = rope.number("beta_slow", 1e-3, 1e4, default=1.0)
    return YarnScaling(
        factor=rope.number("factor", 1.0, 1e4),
        original_context=rope.integer(
            "original_max_position_embeddings", 1, 1 << 28, default=context_length
        ),
        beta_fast=rope.number("beta_fast", slow, 1e4, default=max(slow, 32.0)),
        beta_slow=slow,
        attention_factor=(
            rope.number("attention_factor", 1e-3, 1e3) if rope.has("attention_factor") else None
        ),
    )


def _extended(context_length: int, scaling: RopeScaling | YarnScaling | None) -> int:
    """Return the context length with YaRN; some files contain it, others only the factor."""
    if not isinstance(scaling, YarnScaling):
        return context_length
    return max(context_length, int(scaling.factor * scaling.original_context))


def with_sliding_window(
    config: ModelConfig, fields: Fields, window: int | None, default_layers: Iterable[int]
) -> ModelConfig:
    """Add a sliding window of ``window`` tokens (None: no window) to the configuration.

    It applies to the layers that ``layer_types`` in config.json lists as sliding, or to
    ``default_layers`` if that field is missing. Raises UserError if ``layer_types`` is wrong.
    """
    sliding_layers = _layers_that_slide(fields, config.n_layers)
    if window is None:
        if sliding_layers:
            raise UserError(
                f"{fields.file}: 'layer_types' names layers with a sliding window, but the size of "
                "the window is not set; get a good copy of this file."
            )
        return config
    layers = tuple(default_layers) if sliding_layers is None else sliding_layers
    return replace(config, sliding_window=window, sliding_layers=layers) if layers else config


def _layers_that_slide(fields: Fields, n_layers: int) -> tuple[int, ...] | None:
    kinds = fields.values.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != n_layers:
        raise UserError(
            f"{fields.file}: 'layer_types' must list the {n_layers} layers; get a good copy of "
            "this file."
        )
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _ATTENTION_KINDS:
            raise UserError(
                f"{fields.file}: 'layer_types' names {str(kind)[:60]!r}; only 'full_attention' and "
                "'sliding_attention' are supported."
            )
    return tuple(layer for layer, kind in enumerate(kinds) if _ATTENTION_KINDS[kind])


def optional_window(fields: Fields, default: int | None) -> int | None:
    """Return ``sliding_window`` of config.json: None if it is null, ``default`` if missing."""
    if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
        return None
    if default is None and not fields.has("sliding_window"):
        return None
    return fields.integer("sliding_window", 1, 1 << 28, default=default)


def config_from_gguf(
    fields: Fields,
    architecture: str,
    vocab_size: int,
    tied_output: bool,
    interleaved: bool,
) -> ModelConfig:
    """Map the metadata of a GGUF file (ggml, docs/gguf.md), whose keys begin with ``architecture``.

    ``interleaved``: whether llama.cpp's converter reorders wq and wk so that rotary pairs are
    adjacent; ``llama_model_rope_type`` in llama.cpp lists the architectures. Llama 3.1's rotary
    scaling is not in the metadata but in the tensor ``rope_freqs.weight``. Raises UserError if a
    field is wrong or not supported.
    """
    prefix = f"{architecture}."
    if fields.values.get(prefix + "expert_count"):
        raise UserError(
            f"{fields.file} is a mixture of experts, which is not supported; get a dense model."
        )
    if fields.has(prefix + "attention.sliding_window_pattern"):
        raise UserError(
            f"{fields.file}: sliding windows in some layers only are not supported in GGUF files; "
            "get the model in Hugging Face's layout."
        )
    dim = fields.integer(prefix + "embedding_length", 1, 1 << 20)
    n_layers = fields.integer(prefix + "block_count", 1, 10_000)
    n_heads = fields.integer(prefix + "attention.head_count", 1, 4096)
    head_dim = fields.integer(
        prefix + "attention.key_length", 2, 4096, default=max(2, dim // n_heads)
    )
    rotated = fields.integer(prefix + "rope.dimension_count", 1, 4096, default=head_dim)
    if rotated != head_dim:
        raise UserError(
            f"{fields.file}: only {rotated} of {head_dim} numbers of each head are rotated; only "
            "models that rotate whole heads are supported."
        )
    context_length = fields.integer(prefix + "context_length", 1, 1 << 28)
    scaling, linear_factor = _gguf_scaling(fields, prefix, context_length)
    window = fields.integer(prefix + "attention.sliding_window", 0, 1 << 28, default=0)
    config = ModelConfig(
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.integer(prefix + "attention.head_count_kv", 1, 4096, default=n_heads),
        head_dim=head_dim,
        hidden_dim=fields.integer(prefix + "feed_forward_length", 1, 1 << 22),
        vocab_size=vocab_size,
        norm_eps=fields.number(prefix + "attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope_theta=fields.number(prefix + "rope.freq_base", 1.0, 1e12, default=10000.0),
        context_length=_extended(context_length, scaling),
        rope_scaling=scaling,
        rope_linear_factor=linear_factor,
        rope_interleaved=interleaved,
        tied_output=tied_output,
        architecture=architecture,
        sliding_window=window or None,
        sliding_layers=tuple(range(n_layers)) if window else (),
    )
    return check_config(config, fields.file)


def _gguf_scaling(
    fields: Fields, prefix: str, context_length: int
) -> tuple[YarnScaling | None, float]:
    """Return YaRN's scaling of rotary frequencies, and the factor of "linear" scaling."""
    scaling = prefix + "rope.scaling."
    kind: Any = fields.values.get(scaling + "type", "none")
    if kind == "none":
        return None, 1.0
    if kind == "linear":
        return None, fields.number(scaling + "factor", 1.0, 1e4)
    if kind != "yarn":
        raise UserError(
            f"{fields.file}: rotary scaling {str(kind)[:60]!r} is not supported; 'linear' and "
            "'yarn' are."
        )
    for key in ("attn_factor", "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"):
        if fields.has(scaling + key):
            raise UserError(
                f"{fields.file}: YaRN with '{scaling + key}' is not supported, only with a factor "
                "and a range of frequencies."
            )
    slow = fields.number(scaling + "yarn_beta_slow", 1e-3, 1e4, default=1.0)
    yarn = YarnScaling(
        factor=fields.number(scaling + "factor", 1.0, 1e4),
        original_context=fields.integer(
            scaling + "original_context_length", 1, 1 << 28, default=context_length
        ),
        beta_fast=fields.number(scaling + "yarn_beta_fast", slow, 1e4, default=max(slow, 32.0)),
        beta_slow=slow,
    )
    return yarn, 1.0
