"""Discovery of the models on this computer, with the facts in their headers.

Nothing is written, and no weights are read. Folders and numbers of files are limited, because the
folders belong to others and may be large. The caches of other programs are read as documented:
Hugging Face's (huggingface_hub, "Understand caching": hub/models--ORG--NAME/refs and snapshots) and
Ollama's (manifests that name blobs by their SHA-256).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from llama_cpu.checkpoint import Checkpoint, holds_checkpoint, open_checkpoint
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.errors import UserError
from llama_cpu.hub.cached import snapshot
from llama_cpu.hub.choice import is_complete, is_first_part, is_language_model
from llama_cpu.hub.places import hub_cache
from llama_cpu.loading.demo_model import demo_model_path
from llama_cpu.loading.memory_estimate import MemoryEstimate, estimate_memory
from llama_cpu.loading.other_programs import folders_of_other_programs, ollama_folders
from llama_cpu.loading.plan import DEFAULT_CONTEXT
from llama_cpu.model.architectures import architecture_of
from llama_cpu.system.paths import model_folder
from llama_cpu.system.safe_reading import reason
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.weight_format import WeightFormat

_MOST = 500  # maximum number of models listed per location
_DEEPEST = 3  # maximum depth of subfolders in a folder
_MOST_FOLDERS = 2000  # that are looked into per location
_MANIFEST_BYTES = 1 << 20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class FoundModel:
    """The path of a model, its name in that location, and the program that it belongs to, or ""."""

    path: Path
    name: str
    program: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """Facts from the headers of a model. ``problem``: one sentence if they cannot be used."""

    architecture: str = ""
    parameters: int = 0
    file_type: str = ""
    memory: dict[WeightFormat, MemoryEstimate] = field(default_factory=dict)
    problem: str = ""


def find_models(folders: Iterable[Path]) -> Iterator[FoundModel]:
    """Yield each model once: those in model/, the user's folders, other programs', and the demo."""
    seen: set[Path] = set()
    for found in _everywhere(folders):
        try:
            real = found.path.resolve()
        except (OSError, RuntimeError):  # links in a circle
            continue
        if real not in seen:
            seen.add(real)
            yield found


def _everywhere(folders: Iterable[Path]) -> Iterator[FoundModel]:
    for folder in (model_folder(), *folders):
        yield from _in_location(folder)
    yield from islice(_in_hugging_face_cache(hub_cache()), _MOST)
    for models in ollama_folders():
        yield from islice(_in_ollama_cache(models), _MOST)
    for program, folder in folders_of_other_programs():
        for found in _in_location(folder):
            yield FoundModel(found.path, found.name, program)
    if demo_model_path().is_file():
        yield FoundModel(demo_model_path(), demo_model_path().stem)


def _in_location(folder: Path) -> Iterator[FoundModel]:
    visits = iter(range(_MOST_FOLDERS))
    return islice(_in_folder(folder, _DEEPEST, visits), _MOST)


def _in_folder(folder: Path, depth: int, visits: Iterator[int]) -> Iterator[FoundModel]:
    """Yield the models of a folder. ``visits`` ends when no further folder is looked into."""
    if folder.is_file():  # the user named one file
        yield FoundModel(folder, folder.stem)
        return
    if next(visits, None) is None:
        return
    entries = _entries(folder)
    gguf_files = [entry for entry in entries if entry.suffix == ".gguf"]
    if holds_checkpoint(folder) and not gguf_files:
        yield FoundModel(folder, folder.resolve().name)
        return
    yield from (FoundModel(file, file.stem) for file in gguf_files if _is_model(file))
    if depth:
        for entry in entries:
            if _is_folder(entry):
                yield from _in_folder(entry, depth - 1, visits)


def _is_model(file: Path) -> bool:
    """Return whether a GGUF file is a language model, or the first part of one."""
    return is_language_model(file.name) and is_first_part(file.name)


def _entries(folder: Path) -> list[Path]:
    """List a folder in alphabetical order; return an empty list if it cannot be read."""
    try:
        return sorted(islice(folder.iterdir(), 10 * _MOST))
    except (OSError, ValueError):
        return []


def _is_folder(path: Path) -> bool:
    """Return whether to search a folder. Links are not followed, as they may lead back."""
    return not path.name.startswith(".") and path.is_dir() and not path.is_symlink()


def _in_hugging_face_cache(hub: Path) -> Iterator[FoundModel]:
    for repository in _entries(hub):
        if repository.name.startswith("models--"):
            name = repository.name.removeprefix("models--").replace("--", "/")
            folder = snapshot(repository)
            if folder is None:
                continue
            gguf_files = _gguf_files(folder)
            for file in gguf_files:
                yield FoundModel(file, f"{name}/{file.stem}", "Hugging Face")
            if not gguf_files and _has_weights(folder):
                yield FoundModel(folder, name, "Hugging Face")


def _gguf_files(folder: Path) -> list[Path]:
    """List the GGUF files of a repository; some have one folder for each quantization."""
    entries = _entries(folder)
    for entry in filter(_is_folder, entries[:_MOST]):
        entries = entries + _entries(entry)
    return [entry for entry in entries if entry.suffix == ".gguf" and _is_model(entry)]


def _has_weights(folder: Path) -> bool:
    """Return whether a repository contains a model; many contain only a tokenizer.

    A download that was interrupted lacks shards.
    """
    names = [entry.name for entry in _entries(folder)]
    if not (folder / "config.json").exists():
        return False
    if any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        return is_complete(names)
    return any(name.endswith((".safetensors", ".bin")) for name in names)


def _in_ollama_cache(models: Path) -> Iterator[FoundModel]:
    for manifest in islice(_files_under(models / "manifests", 4), 10 * _MOST):
        digest = _model_of(manifest)
        blob = models / "blobs" / f"sha256-{digest}"
        if digest and blob.is_file():
            *_, name, tag = manifest.parts
            yield FoundModel(blob, f"{name}:{tag}", "Ollama")


def _files_under(folder: Path, depth: int) -> Iterator[Path]:
    for entry in _entries(folder):
        if depth and _is_folder(entry):
            yield from _files_under(entry, depth - 1)
        elif entry.is_file():
            yield entry


def _model_of(manifest: Path) -> str:
    """Return the SHA-256 of the file with the weights; "" if it is missing in the manifest."""
    try:
        with manifest.open("rb") as file:
            values: Any = json.loads(file.read(_MANIFEST_BYTES))
        for layer in values["layers"]:
            if layer["mediaType"] == _OLLAMA_MODEL:
                match = re.fullmatch(r"sha256:([0-9a-f]{64})", layer["digest"])
                return match[1] if match else ""
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pass
    return ""


def facts_of(found: FoundModel, kv_int8: bool = False) -> ModelFacts:
    """Read the headers of a model. Never raises: errors are reported in ``problem``.

    ``kv_int8``: whether its KV cache would be in int8.
    """
    if old := _file_of_old_format(found.path):
        return ModelFacts(problem=f"{old} is in PyTorch's old format; only loading shows its size.")
    try:
        checkpoint = open_checkpoint(found.path)
        return _facts(checkpoint, kv_int8)
    except UserError as error:
        return ModelFacts(problem=str(error))
    except Exception as error:  # a bug in this program must not hide all other models
        return ModelFacts(problem=f"{found.path}: {type(error).__name__}: {reason(error)}"[:300])


def _file_of_old_format(folder: Path) -> Path | None:
    """Return a file in the format before PyTorch 1.6, which cannot be mapped, or None."""
    if folder.is_dir():
        for file in _entries(folder):
            if file.suffix in (".pth", ".bin") and file.is_file():
                try:
                    with file.open("rb") as opened:
                        if opened.read(2) != b"PK":
                            return file
                except OSError:
                    return None
    return None


def _facts(checkpoint: Checkpoint, kv_int8: bool) -> ModelFacts:
    config = checkpoint.config
    context = min(config.context_length, DEFAULT_CONTEXT)
    sizes = Counter[str]()
    for tensor in checkpoint.tensors.values():
        sizes[_type_of(tensor)] += math.prod(tensor.shape)
    return ModelFacts(
        architecture=f"{architecture_of(config).name}, {config.n_layers} layers, {config.dim} wide",
        parameters=sum(math.prod(shape) for shape in tensor_shapes(config).values()),
        file_type=sizes.most_common(1)[0][0],
        memory={
            precision: estimate_memory(
                config, precision, context, kv_int8=kv_int8, tensors=checkpoint.tensors
            )
            for precision in FORMATS
        },
    )


def _type_of(tensor: Any) -> str:
    """Return the name of a tensor's type: ``bfloat16``, or a quantised one such as ``Q4_1``."""
    if tensor.dtype is not None:
        return str(tensor.dtype).removeprefix("torch.")
    return str(tensor.kind)
