"""Discovery of the models on this computer, with the facts in their headers.

Nothing is written, and no weights are read. The folders of other programs are read as documented:
Hugging Face's cache (huggingface_hub, "Understand caching": hub/models--ORG--NAME/refs and
snapshots) and Ollama's (manifests that name blobs by their SHA-256).
"""

import json
import math
import os
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
from llama_cpu.loading.demo_model import demo_model_path
from llama_cpu.loading.memory_estimate import MemoryEstimate, estimate_memory
from llama_cpu.loading.plan import DEFAULT_CONTEXT
from llama_cpu.model.architectures import architecture_of
from llama_cpu.system.paths import model_folder
from llama_cpu.system.safe_reading import reason
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.weight_format import WeightFormat

_MOST = 500  # maximum number of models listed per location
_DEEPEST = 3  # maximum depth of subfolders in a folder that the user named
_MANIFEST_BYTES = 1 << 20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True)
class FoundModel:
    """The path of a model, and its name in that location."""

    path: Path
    name: str


@dataclass(frozen=True)
class ModelFacts:
    """Facts from the headers of a model. ``problem``: one sentence if they cannot be used."""

    architecture: str = ""
    parameters: int = 0
    file_type: str = ""
    memory: dict[WeightFormat, MemoryEstimate] = field(default_factory=dict)
    problem: str = ""


def find_models(folders: Iterable[Path]) -> Iterator[FoundModel]:
    """Yield each model once: those in model/, the user's folders and two caches, and the demo."""
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
        yield from islice(_in_folder(folder, _DEEPEST), _MOST)
    yield from islice(_in_hugging_face_cache(_hugging_face_cache()), _MOST)
    yield from islice(_in_ollama_cache(_ollama_cache()), _MOST)
    if demo_model_path().is_file():
        yield FoundModel(demo_model_path(), demo_model_path().stem)


def _in_folder(folder: Path, depth: int) -> Iterator[FoundModel]:
    if folder.is_file():  # the user named one file
        yield FoundModel(folder, folder.stem)
        return
    entries = _entries(folder)
    gguf_files = [entry for entry in entries if entry.suffix == ".gguf"]
    if holds_checkpoint(folder) and not gguf_files:
        yield FoundModel(folder, folder.resolve().name)
        return
    yield from (FoundModel(file, file.stem) for file in gguf_files)
    if depth:
        for entry in entries:
            if _is_folder(entry):
                yield from _in_folder(entry, depth - 1)


def _entries(folder: Path) -> list[Path]:
    """List a folder in alphabetical order; return an empty list if it cannot be read."""
    try:
        return sorted(islice(folder.iterdir(), 10 * _MOST))
    except (OSError, ValueError):
        return []


def _is_folder(path: Path) -> bool:
    """Return whether to search a folder. Links are not followed, as they may lead back."""
    return not path.name.startswith(".") and path.is_dir() and not path.is_symlink()


def _hugging_face_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return _expanded(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")


def _ollama_cache() -> Path:
    return _expanded(os.environ.get("OLLAMA_MODELS") or "~/.ollama/models")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the user has no home folder
        return Path(path)


def _in_hugging_face_cache(hub: Path) -> Iterator[FoundModel]:
    for repository in _entries(hub):
        if repository.name.startswith("models--"):
            name = repository.name.removeprefix("models--").replace("--", "/")
            snapshot = _snapshot(repository)
            if snapshot is None:
                continue
            gguf_files = [entry for entry in _entries(snapshot) if entry.suffix == ".gguf"]
            yield from (FoundModel(file, f"{name}/{file.stem}") for file in gguf_files)
            if not gguf_files and _has_weights(snapshot):
                yield FoundModel(snapshot, name)


def _snapshot(repository: Path) -> Path | None:
    """Return the snapshot of the main branch, or else the first one; None if there is none."""
    snapshots = _entries(repository / "snapshots")
    try:
        with (repository / "refs" / "main").open(encoding="ascii") as file:
            main = file.read(100).strip()
    except (OSError, ValueError):
        main = ""
    named = [snapshot for snapshot in snapshots if snapshot.name == main]
    return next(iter(named or snapshots), None)


def _has_weights(folder: Path) -> bool:
    """Return whether a repository contains a model; many contain only a tokenizer."""
    files = {entry.suffix for entry in _entries(folder)}
    return (folder / "config.json").exists() and bool(files & {".safetensors", ".bin"})


def _in_ollama_cache(models: Path) -> Iterator[FoundModel]:
    for manifest in islice(_files_under(models / "manifests", 4), 10 * _MOST):
        digest = _model_of(manifest)
        blob = models / "blobs" / f"sha256-{digest}"
        if digest and blob.is_file():
            *_, name, tag = manifest.parts
            yield FoundModel(blob, f"{name}:{tag}")


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
