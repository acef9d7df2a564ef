"""The other engines, and what each of them runs in place of one of our precisions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import FILE, ModelFiles


@dataclass(frozen=True)
class Variant:
    """How a peer runs a model: its own name for the precision, which its worker is given.

    ``model``: the file that it reads. ``memory``: its measured memory, relative to the weights in
    float32, with the conversion of the model if it converts it.
    """

    name: str
    model: Callable[[ModelFiles], Path]
    memory: float


@dataclass(frozen=True)
class Peer:
    """Another engine: the module of its worker, and its variants by our precision.

    A precision that is not there has no counterpart. ``with_ours``: whether it is installed in our
    environment instead of that of the peers.
    """

    module: str
    variants: Mapping[str, tuple[Variant, ...]]
    with_ours: bool = False


def _as_gguf(precision: str) -> Callable[[ModelFiles], Path]:
    return lambda files: files.as_gguf(precision)


def _quantized(kind: str, memory: float) -> Variant:
    return Variant(kind, lambda files: files.quantized(kind), memory)


def _same_file(memory: float) -> Variant:
    return Variant("same file", lambda files: files.source, memory)


def _in_safetensors(name: str, memory: float) -> tuple[Variant, ...]:
    return (Variant(name, ModelFiles.as_safetensors, memory),)


def _from_float16(name: str, memory: float) -> tuple[Variant, ...]:
    return (Variant(name, _as_gguf("float16"), memory),)


# The only table of the peers' precisions. OpenVINO's integers are modes of nncf.
PEERS = {
    "llama.cpp": Peer(
        "llama_cpp",
        {
            "float32": (Variant("F32", _as_gguf("float32"), 1.1),),
            "bf16": (Variant("BF16", _as_gguf("bf16"), 0.6),),
            "int8": (Variant("Q8_0", _as_gguf("int8"), 0.6),),
            "int4": (_quantized("Q4_0", 0.35), _quantized("Q4_K_M", 0.35)),
            FILE: (_same_file(0.35),),
        },
    ),
    "CTranslate2": Peer(
        "ctranslate2",
        {
            "float32": _in_safetensors("float32", 1.1),
            "bf16": _in_safetensors("bfloat16", 1.1),
            "int8": _in_safetensors("int8_float32", 1.4),
        },
    ),
    "OpenVINO": Peer(
        "openvino",
        {
            "float32": _from_float16("float32", 1.9),
            "bf16": _from_float16("bf16", 1.8),
            "int8": _from_float16("INT8_SYM", 1.0),
            "int4": _from_float16("INT4_ASYM", 1.0),
            FILE: (_same_file(1.0),),
        },
    ),
    "transformers": Peer(
        "transformers",
        {
            "float32": _in_safetensors("float32", 1.6),
            "bf16": _in_safetensors("bfloat16", 1.1),
        },
        with_ours=True,
    ),
}
