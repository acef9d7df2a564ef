"""Readers of model files. A checkpoint is opened without reading its weights or running code."""

from pathlib import Path

from llama_cpu.checkpoint.base import Checkpoint
from llama_cpu.errors import UserError
from llama_cpu.system.paths import holds_checkpoint, require_exists
from llama_cpu.system.safe_reading import reason

__all__ = ["Checkpoint", "holds_checkpoint", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder in Meta's or Hugging Face's layout, a ``.gguf`` file, or a folder with one.

    Raises UserError unless the files are a complete model of a supported architecture.
    """
    try:
        return _open(path)
    except OSError as error:  # a folder without permission, a name that is too long
        raise UserError(f"{path} cannot be read ({reason(error)}).") from error


def _open(path: Path) -> Checkpoint:
    require_exists(path)
    if path.suffix in (".pth", ".safetensors", ".bin", ".json"):
        raise UserError(f"{path} is one file of a model; name its folder, {path.parent}.")
    if path.is_file():
        return _open_gguf(path)
    if (path / "params.json").exists():
        from llama_cpu.checkpoint.meta import open_meta

        return open_meta(path)
    if (path / "config.json").exists():
        from llama_cpu.checkpoint.hugging_face import open_hugging_face

        return open_hugging_face(path)
    gguf_files = sorted(path.glob("*.gguf"))
    if len(gguf_files) == 1:
        return _open_gguf(gguf_files[0])
    if gguf_files:
        raise UserError(
            f"{path} holds {len(gguf_files)} GGUF files; name the one you want, "
            f"for instance --ckpt_dir {gguf_files[0]}."
        )
    raise UserError(
        f"{path} holds no params.json (Meta), no config.json (Hugging Face) and no .gguf file; "
        "put the one that belongs to the model there, beside its weights."
    )


def _open_gguf(path: Path) -> Checkpoint:
    from llama_cpu.checkpoint.gguf import open_gguf

    return open_gguf(path)
