"""Small random LLaMA models, written in each of the layouts that the program reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import gguf
import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.checkpoint.sharding import split_dimension
from llama_cpu.model.config import ModelConfig

Weights = dict[str, Tensor]
T = TypeVar("T")

HF_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
GGUF_NAMES = {
    "rope_freqs": "rope_freqs",
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "output": "output",
    "attention_norm": "attn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


LLAMA_7B = ModelConfig(
    dim=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=32,
    head_dim=128,
    hidden_dim=11008,
    vocab_size=32000,
    norm_eps=1e-6,
    rope_theta=10000.0,
    context_length=2048,
)


def tiny_config(**changes) -> ModelConfig:
    values = {
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "head_dim": 16,
        "hidden_dim": 96,
        "vocab_size": 320,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "context_length": 512,
    }
    return ModelConfig(**(values | changes))


def random_weights(config: ModelConfig, seed: int = 0) -> Weights:
    """Meta's names; scaled so that logits are well apart and layers matter."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator)
        weights[name] = 1 + 0.1 * values if len(shape) == 1 else values / shape[-1] ** 0.5 * 1.5
    return weights


def read_all(path: Path) -> Weights:
    """Every tensor of a checkpoint in float32."""
    weights = {}
    for name, stored in open_checkpoint(path).tensors.items():
        weights[name] = torch.empty(stored.shape)
        stored.fill(weights[name])
    return weights


def params_json(config: ModelConfig) -> dict:
    params = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "norm_eps": config.norm_eps,
        "vocab_size": -1,
        "multiple_of": 32,
        "rope_theta": config.rope_theta,
        "max_seq_len": config.context_length,
    }
    if config.n_kv_heads != config.n_heads:
        params["n_kv_heads"] = config.n_kv_heads
    if config.rope_scaling is not None:
        params |= {"use_scaled_rope": True, "rope_scaling_factor": config.rope_scaling.factor}
    if config.head_dim != config.dim // config.n_heads:
        params["head_dim"] = config.head_dim
    return params


def write_meta(
    folder: Path,
    config: ModelConfig,
    weights: Weights,
    n_shards: int = 1,
    embedding_dim: int = 1,
    name: str | None = None,
) -> Path:
    """``embedding_dim``: along which the embedding is split: 1 in LLaMA 1 and 2, 0 in Llama 3."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params_json(config)))
    for rank in range(n_shards):
        shard = {}
        for tensor_name, tensor in weights.items():
            dim = split_dimension(tensor_name, embedding_dim)
            pieces = [tensor] * n_shards if dim is None else tensor.chunk(n_shards, dim)
            shard[tensor_name] = pieces[rank].clone()
        shard["rope.freqs"] = torch.ones(config.head_dim // 2)
        torch.save(shard, folder / (name or f"consolidated.{rank:02d}.pth"))
    return folder


def renamed(weights: Mapping[str, T], names: dict[str, str], layer_prefix: str) -> dict[str, T]:
    """Meta's names changed for others: ``names`` by kind, layers' after ``layer_prefix``."""
    renamed = {}
    for name, tensor in weights.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("layers."):
            _, layer, kind = stem.split(".", 2)
            renamed[f"{layer_prefix}{layer}.{names[kind]}.weight"] = tensor
        else:
            renamed[f"{names[stem]}.weight"] = tensor
    return renamed


def to_halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of wq or wk from Meta's order (pairs are neighbours) to Hugging Face's (halves)."""
    heads = weight.shape[0] // head_dim
    pairs = weight.view(heads, head_dim // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(weight.shape)


def hugging_face_config(config: ModelConfig) -> dict:
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tied_output,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        values["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    elif config.rope_linear_factor != 1.0:
        values["rope_scaling"] = {"rope_type": "linear", "factor": config.rope_linear_factor}
    return values


def hugging_face_weights(config: ModelConfig, weights: Weights) -> Weights:
    rotated = {
        name: to_halves(tensor, config.head_dim) if ".wq." in name or ".wk." in name else tensor
        for name, tensor in weights.items()
    }
    return renamed(rotated, HF_NAMES, "model.layers.")


def write_hugging_face(
    folder: Path,
    config: ModelConfig,
    weights: Weights,
    n_files: int = 1,
    suffix: str = "safetensors",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hugging_face_config(config)))
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    tensors = {
        name: tensor.contiguous() for name, tensor in hugging_face_weights(config, weights).items()
    }
    save = save_file if suffix == "safetensors" else torch.save
    if n_files == 1:
        save(tensors, folder / f"{stem}.{suffix}")
        return folder
    weight_map = {}
    for number in range(n_files):
        file = f"{stem}-{number + 1:05d}-of-{n_files:05d}.{suffix}"
        part = dict(list(tensors.items())[number::n_files])
        save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_gguf(
    path: Path,
    config: ModelConfig,
    weights: Weights,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    vocabulary: dict | None = None,
) -> Path:
    """``vocabulary``: further metadata, by key."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    for key, value in (vocabulary or {}).items():
        add_value(writer, key, value)
    for name, tensor in renamed(weights, GGUF_NAMES, "blk.").items():
        one_dimensional = tensor.dim() == 1
        kind = gguf.GGMLQuantizationType.F32 if one_dimensional else quantization
        data = gguf.quants.quantize(tensor.float().numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
