"""Text <-> token ids: sentencepiece, Llama 3's ranks, tokenizer.json, GGUF; one interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_cpu.checkpoint import Checkpoint
from llama_cpu.checkpoint.base import read_json
from llama_cpu.errors import UserError
from llama_cpu.tokenization.base import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]


def load_tokenizer(
    checkpoint: Checkpoint, tokenizer_path: Path | None, default_folder: Path
) -> Tokenizer:
    """The tokenizer named, or what lies with the checkpoint, or in the default folder.

    ``tokenizer_path`` may be a folder, a tokenizer.model, a tokenizer.json or a GGUF file.
    Raises UserError where there is none, or where it does not belong to the model.
    """
    if tokenizer_path is None and "tokenizer.ggml.model" in checkpoint.metadata:
        source = checkpoint.path
        tokenizer = _from_gguf(source, checkpoint.metadata)
    else:
        source = _find(checkpoint, tokenizer_path, default_folder)
        tokenizer = _from_file(source)
    _check_size(tokenizer, source, checkpoint)
    return tokenizer


def _from_gguf(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    from llama_cpu.tokenization.gguf import gguf_tokenizer

    try:
        tokenizer = gguf_tokenizer(metadata)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: its tokenizer cannot be used, as {error}; name another with --tokenizer_path."
        ) from error
    tokenizer.chat_template = _text(metadata.get("tokenizer.chat_template"))
    return tokenizer


def _find(checkpoint: Checkpoint, named: Path | None, default_folder: Path) -> Path:
    if named is not None:
        folders = [named]
        if named.is_file():
            return named
    else:
        model_folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        # Meta's own downloads have the tokenizer one folder above the sizes.
        folders = [model_folder, default_folder, model_folder.parent]
    for folder in folders:
        for name in ("tokenizer.json", "tokenizer.model"):
            if (folder / name).is_file():
                return folder / name
    raise UserError(
        f"No tokenizer.model or tokenizer.json in {' or '.join(map(str, folders[:2]))}; put the "
        "model's own there or name it with --tokenizer_path."
    )


def _from_file(path: Path) -> Tokenizer:
    if path.suffix == ".gguf":
        from llama_cpu.checkpoint.gguf import read_gguf

        return _from_gguf(path, read_gguf(path)[0])
    try:
        data = path.read_bytes()
        tokenizer = _from_json(path, data) if path.suffix == ".json" else _from_model_file(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a tokenizer that can be read; get a good copy.") from error
    tokenizer.chat_template = _template_beside(path)
    return tokenizer


def _template_beside(path: Path) -> str:
    """Hugging Face's places for a chat template, the newest first."""
    jinja_file = path.with_name("chat_template.jinja")
    if jinja_file.exists():
        return jinja_file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if path.with_name(name).exists():
            template = read_json(path.with_name(name)).get("chat_template")
            if isinstance(template, list):  # several, by name
                named = {entry.get("name"): entry.get("template") for entry in template}
                template = named.get("default")
            if template:
                return _text(template)
    return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _from_json(path: Path, data: bytes) -> Tokenizer:
    from llama_cpu.tokenization.hugging_face import HuggingFaceTokenizer

    settings_file = path.with_name("tokenizer_config.json")
    settings = read_json(settings_file) if settings_file.exists() else {}
    return HuggingFaceTokenizer.parse(data.decode(), settings)


def _from_model_file(data: bytes) -> Tokenizer:
    from llama_cpu.tokenization.tiktoken import TiktokenTokenizer, looks_like_ranks

    if looks_like_ranks(data):
        return TiktokenTokenizer(data)
    from llama_cpu.tokenization.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(data)


def _check_size(tokenizer: Tokenizer, source: Path, checkpoint: Checkpoint) -> None:
    """The embedding may have a few rows more, to a round number, but no token may lack its row."""
    rows = checkpoint.config.vocab_size
    padding = rows - tokenizer.n_tokens
    if padding < 0 or (padding and (padding >= 256 or rows % 8)):
        raise UserError(
            f"{source} has {tokenizer.n_tokens} tokens but the model in {checkpoint.path} has "
            f"{rows}: they do not belong together; name the model's own with --tokenizer_path."
        )
