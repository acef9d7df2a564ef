"""Writing of GGUF files with random weights, or with the weights of another file converted."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from torch import Tensor

from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.checkpoint.gguf import QuantizedTensor, read_gguf
from llama_cpu.checkpoint.stored import StoredTensor
from llama_cpu.model.config import ModelConfig
from tests.support.checkpoints import GGUF_NAMES, renamed
from tests.support.vocabularies import gguf_vocabulary

TYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "int8": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_ROWS = 1024  # number of rows of a tensor that are converted at once

Field = tuple[Any, GGUFValueType, GGUFValueType | None]  # value, type, type of an array's items


class RandomTensor:
    """A stored tensor whose rows are pieces of one pool of random numbers."""

    dtype = torch.bfloat16
    pool = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).bfloat16()

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def rows(self, first: int, last: int) -> "RandomTensor":
        return RandomTensor((last - first, *self.shape[1:]))

    def mapped(self) -> None:
        return None

    def fill(self, target: Tensor) -> None:
        if target.dim() == 1:  # a norm
            target.fill_(1)
            return
        start = int(torch.randint(len(self.pool) - target.numel(), ()))
        values = self.pool[start : start + target.numel()].view(target.shape)
        target.copy_(values * self.shape[-1] ** -0.5)


def write_random(path: Path, config: ModelConfig) -> None:
    """Write a GGUF file of random bfloat16 weights."""
    torch.manual_seed(0)
    tensors = {name: RandomTensor(shape) for name, shape in tensor_shapes(config).items()}
    write_gguf(path, _random_fields(config), renamed(tensors, GGUF_NAMES, "blk."), "bf16")


def rewrite_gguf(source: Path, target: Path, precision: str) -> None:
    """Write the weights and metadata of one GGUF file to another in the given precision."""
    _, tensors = read_gguf(source)
    write_gguf(target, _fields_of(source), tensors, precision)


def write_gguf(
    path: Path, fields: Mapping[str, Field], tensors: Mapping[str, StoredTensor], precision: str
) -> None:
    """Write tensors with GGUF's names, a few rows at a time; norms stay float32."""
    writer = GGUFWriter(path, fields["general.architecture"][0])
    for key, (value, kind, item_kind) in fields.items():
        if key != "general.architecture":
            writer.add_key_value(key, value, kind, item_kind)
    matrix_type, file_type = TYPES[precision]
    writer.add_file_type(file_type)
    kinds = {
        name: matrix_type if len(tensor.shape) > 1 else GGMLQuantizationType.F32
        for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        shape = (*tensor.shape[:-1], _row_bytes(tensor.shape[-1], kinds[name]))
        writer.add_tensor_info(
            name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kinds[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():
        writer.write_tensor_data(_quantized(tensor, kinds[name]))
    writer.close()


def stored_bytes(tensor: StoredTensor) -> int:
    """Return the bytes that a tensor takes in its file."""
    if isinstance(tensor, QuantizedTensor):
        *heights, length = tensor.shape
        return math.prod(heights) * _row_bytes(length, tensor.quantization)
    assert tensor.dtype is not None
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _row_bytes(length: int, kind: GGMLQuantizationType) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return length // block * int(block_bytes)


def _quantized(tensor: StoredTensor, kind: GGMLQuantizationType) -> np.ndarray:
    """Return the tensor converted to ``kind``: uint8 [..., bytes of a row]."""
    result = np.empty((*tensor.shape[:-1], _row_bytes(tensor.shape[-1], kind)), np.uint8)
    if len(tensor.shape) == 1:
        values = torch.empty(tensor.shape)
        tensor.fill(values)
        result[:] = values.numpy().view(np.uint8)
        return result
    for first in range(0, tensor.shape[0], _ROWS):
        last = min(first + _ROWS, tensor.shape[0])
        values = torch.empty(last - first, *tensor.shape[1:])
        tensor.rows(first, last).fill(values)
        result[first:last] = gguf.quants.quantize(values.numpy(), kind).view(np.uint8)
    return result


def _fields_of(path: Path) -> dict[str, Field]:
    """Return a file's metadata with its types, which the program's own reader drops."""
    left_out = ("general.file_type", "general.quantization_version")
    return {
        field.name: (field.contents(), field.types[0], field.types[-1])
        for field in gguf.GGUFReader(path).fields.values()
        if not field.name.startswith("GGUF.") and field.name not in left_out
    }


def _random_fields(config: ModelConfig) -> dict[str, Field]:
    """Return the metadata of a LLaMA with a byte-level vocabulary, padded with invented words."""
    vocabulary = gguf_vocabulary()
    tokens, kinds = vocabulary["tokenizer.ggml.tokens"], vocabulary["tokenizer.ggml.token_type"]
    words = [f"word{number}" for number in range(config.vocab_size - len(tokens))]
    numbers = {
        "llama.block_count": config.n_layers,
        "llama.context_length": config.context_length,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.bos_token_id": vocabulary["tokenizer.ggml.bos_token_id"],
        "tokenizer.ggml.eos_token_id": vocabulary["tokenizer.ggml.eos_token_id"],
        "tokenizer.ggml.padding_token_id": vocabulary["tokenizer.ggml.eos_token_id"],
    }
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    fields: dict[str, Field] = {
        "general.architecture": ("llama", string, None),
        "general.name": ("random", string, None),
        "llama.attention.layer_norm_rms_epsilon": (config.norm_eps, GGUFValueType.FLOAT32, None),
        "llama.rope.freq_base": (config.rope_theta, GGUFValueType.FLOAT32, None),
        "tokenizer.ggml.model": ("gpt2", string, None),
        "tokenizer.ggml.pre": (vocabulary["tokenizer.ggml.pre"], string, None),
        "tokenizer.ggml.tokens": (tokens + words, array, string),
        "tokenizer.ggml.token_type": (kinds + [1] * len(words), array, GGUFValueType.INT32),
        "tokenizer.ggml.merges": (vocabulary["tokenizer.ggml.merges"], array, string),
    }
    return fields | {key: (value, GGUFValueType.UINT32, None) for key, value in numbers.items()}
