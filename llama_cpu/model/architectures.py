"""All supported architectures. A new one needs its own file and one line here."""

from pathlib import Path

from llama_cpu.errors import UserError
from llama_cpu.model.architecture import Architecture
from llama_cpu.model.config import ModelConfig
from llama_cpu.model.llama import LLAMA
from llama_cpu.model.mistral import MISTRAL
from llama_cpu.model.qwen2 import QWEN2
from llama_cpu.model.qwen3 import QWEN3
from llama_cpu.model.smollm3 import SMOLLM3

ARCHITECTURES = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    SMOLLM3,
)


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the architecture of a model with this configuration."""
    return next(each for each in ARCHITECTURES if each.key == config.architecture)


def hugging_face_architecture(model_type: object, file: Path) -> Architecture:
    """Return the architecture with this "model_type". Raises UserError if it is not supported."""
    for architecture in ARCHITECTURES:
        if architecture.key == model_type:
            return architecture
    raise _unsupported(model_type, [each.key for each in ARCHITECTURES], file)


def gguf_architecture(name: object, file: Path) -> Architecture:
    """Return the architecture with this name in GGUF. Raises UserError if it is not supported."""
    for architecture in ARCHITECTURES:
        if architecture.gguf_key == name:
            return architecture
    raise _unsupported(name, [each.gguf_key for each in ARCHITECTURES], file)


def _unsupported(name: object, supported: list[str], file: Path) -> UserError:
    names = list(dict.fromkeys(supported))
    return UserError(
        f"{file}: the architecture {str(name)[:60]!r} is not supported; get a model of "
        f"{', '.join(names[:-1])} or {names[-1]}."
    )
