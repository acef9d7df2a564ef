"""Small random models of every architecture, made and saved by transformers, and their GGUF files.

Nothing here reads the program's own tables of names: folders are written by ``save_pretrained``,
GGUF names come from the gguf library's map, and metadata and the order of rows are those of
llama.cpp's converter (conversion/base.py, llama.py, qwen.py, smollm3.py).
"""

from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.support.checkpoints import add_value

_GGUF_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}
# The converter's LlamaModel and what derives from it: ``undo_permute``.
_PERMUTED = {"llama", "mistral", "smollm3"}


def random_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """A model of transformers in float32 whose logits are well apart, every tensor random."""
    values: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    if model_type == "mistral":
        values["sliding_window"] = None
    if model_type == "qwen3":
        values["head_dim"] = 16
    config = AutoConfig.for_model(model_type, **(values | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values_of_tensor = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(values_of_tensor * 1.5 / parameter.shape[1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(values_of_tensor * 0.5)
            else:
                parameter.copy_(1 + 0.3 * values_of_tensor)
    return model


def save(model: PreTrainedModel, folder: Path, shard_bytes: int = 1 << 30) -> Path:
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    return folder


def save_gguf(
    model: PreTrainedModel,
    path: Path,
    *,
    vocabulary: dict[str, Any] | None = None,
    **metadata: Any,
) -> Path:
    """Write the GGUF file that llama.cpp's converter makes of the model.

    ``vocabulary``: metadata by whole keys.
    ``metadata``: further values, after the architecture's prefix; "__" stands for ".".
    """
    config = model.config
    architecture = _GGUF_ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    head_dim = getattr(config, "head_dim", None)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    _add_rope_scaling(writer, config.rope_parameters)
    if config.model_type in _PERMUTED:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(
            head_dim or config.hidden_size // config.num_attention_heads
        )
    for key, value in metadata.items():
        writer.add_uint32(f"{writer.arch}.{key.replace('__', '.')}", value)
    for key, value in (vocabulary or {}).items():
        add_value(writer, key, value)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in _saved_tensors(model, path.parent / "as_saved").items():
        if config.model_type in _PERMUTED:
            tensor = _permuted(name, tensor, config)
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        writer.add_tensor(new_name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _saved_tensors(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    return load_file(save(model, folder) / "model.safetensors")


def _add_rope_scaling(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _permuted(name: str, tensor: Tensor, config: Any) -> Tensor:
    """Rows of wq and wk so that rotary pairs, which are halves, become neighbours."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if f".{projection}." in name:
            halves = tensor.view(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
            return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor
