"""Hugging Face's layout: ``config.json`` with ``*.safetensors`` or ``pytorch_model*.bin``."""

import re
from pathlib import Path

from llama_cpu.checkpoint.base import Checkpoint, check_tensors
from llama_cpu.checkpoint.pth import read_pth
from llama_cpu.checkpoint.safetensors import read_safetensors
from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.model.config import config_from_hugging_face
from llama_cpu.system.safe_reading import read_json

_TOP_LEVEL = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
_PLAIN_NAME = re.compile(r"[\w-][\w.-]{0,200}\.(safetensors|bin)", re.ASCII)


def open_hugging_face(folder: Path) -> Checkpoint:
    """Open the folder. Raises UserError."""
    config = config_from_hugging_face(read_json(folder / "config.json"), folder / "config.json")
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        read = read_safetensors if file.suffix == ".safetensors" else read_pth
        for name, tensor in read(file).items():
            if not name.endswith("rotary_emb.inv_freq"):
                tensors[_meta_name(name)] = tensor
    if config.tied_output:
        tensors.pop("output.weight", None)
    check_tensors(config, tensors, folder)
    return Checkpoint(folder, folder.resolve().name, config, tensors)


def _weight_files(folder: Path) -> list[Path]:
    for pattern in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{pattern}.index.json"
        if index.exists():
            return _indexed_files(index)
        stem, suffix = pattern.rsplit(".", 1)
        if files := sorted(folder.glob(f"{stem}*.{suffix}")):
            return files
    if files := sorted(folder.glob("*.safetensors")):
        return files
    raise UserError(f"{folder} holds config.json but neither *.safetensors nor pytorch_model*.bin.")


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no 'weight_map'; get a good copy of this file.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):  # only files beside the index
            raise UserError(
                f"{index} points to {name[:80]!r}, which is not a file of weights beside it; get a "
                "good copy of this file."
            )
        if not (index.parent / name).exists():
            raise UserError(f"{index.parent} lacks the file {name}, which the index names; get it.")
    return [index.parent / name for name in names]


def _meta_name(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` -> ``layers.3.feed_forward.w3.weight``."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match and match[2] in _IN_LAYER:
        return f"layers.{match[1]}.{_IN_LAYER[match[2]]}.weight"
    return _TOP_LEVEL.get(name, name)
