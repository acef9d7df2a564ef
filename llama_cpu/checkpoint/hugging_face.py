"""Hugging Face's layout: ``config.json`` with ``*.safetensors`` or ``pytorch_model*.bin``."""

import re
from pathlib import Path

from llama_cpu.checkpoint.base import Checkpoint, check_tensors
from llama_cpu.checkpoint.pth import read_pth
from llama_cpu.checkpoint.safetensors import read_safetensors
from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.errors import UserError
from llama_cpu.model.architectures import hugging_face_architecture
from llama_cpu.model.tensors import renamed
from llama_cpu.system.fields import Fields
from llama_cpu.system.safe_reading import read_json

_PLAIN_NAME = re.compile(r"[\w-][\w.-]{0,200}\.(safetensors|bin)", re.ASCII)


def open_hugging_face(folder: Path) -> Checkpoint:
    """Open a folder in Hugging Face's layout. Raises UserError if it cannot be used."""
    config_file = folder / "config.json"
    values = read_json(config_file)
    architecture = hugging_face_architecture(values.get("model_type"), config_file)
    config = architecture.config_from_hugging_face(Fields(values, config_file))
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        stored |= read_safetensors(file) if file.suffix == ".safetensors" else read_pth(file)
    names = {spec.hugging_face: spec.name for spec in architecture.tensors}
    tensors = {
        name: tensor
        for name, tensor in renamed(stored, names).items()
        if not name.endswith("rotary_emb.inv_freq")  # computed, not learned
    }
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
        if not _PLAIN_NAME.fullmatch(name):  # only files in the folder of the index are allowed
            raise UserError(
                f"{index} points to {name[:80]!r}, which is not a file of weights beside it; get a "
                "good copy of this file."
            )
        if not (index.parent / name).exists():
            raise UserError(f"{index.parent} lacks the file {name}, which the index names; get it.")
    return [index.parent / name for name in names]
