"""Tokenizers: sentencepiece, tiktoken ranks (Llama 3, Tekken), tokenizer.json and GGUF."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpu.errors import UserError
from llama_cpu.system.safe_reading import read_json, read_small_file
from llama_cpu.tokenization.base import StreamDecoder, Tokenizer

if TYPE_CHECKING:  # it imports PyTorch, which the process of ``worker`` does not need
    from llama_cpu.checkpoint import Checkpoint

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]


def load_tokenizer(
    checkpoint: "Checkpoint", tokenizer_path: Path | None, default_folder: Path
) -> Tokenizer:
    """Load the named tokenizer, else the checkpoint's own, else the one in the default folder.

    ``tokenizer_path`` may be a folder, a tokenizer.model, a tokenizer.json, a tekken.json or a
    GGUF file. Raises UserError if there is none or if it does not belong to the model.
    """
    try:
        if tokenizer_path is None and "tokenizer.ggml.model" in checkpoint.metadata:
            source = checkpoint.path
            tokenizer = _from_gguf(source, checkpoint.metadata)
        else:
            source = _find(checkpoint, tokenizer_path, default_folder)
            tokenizer = _from_file(source)
    except OSError as error:
        raise UserError(f"The tokenizer cannot be read ({error}).") from error
    _check_size(tokenizer, source, checkpoint)
    return tokenizer


def _from_gguf(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    from llama_cpu.tokenization.gguf import gguf_tokenizer

    try:
        tokenizer = gguf_tokenizer(metadata)
    except (ValueError, RuntimeError, OverflowError) as error:
        why = str(error)[:200] if isinstance(error, ValueError) else "its vocabulary is damaged"
        raise UserError(
            f"{path}: its tokenizer cannot be used because {why}; name another with "
            "--tokenizer_path."
        ) from error
    tokenizer.chat_template = _template(metadata.get("tokenizer.chat_template"), path)
    return tokenizer


_FILE_NAMES = ("tokenizer.json", "tokenizer.model", "tekken.json", "tokenizer.model.v3")


def _find(checkpoint: "Checkpoint", named: Path | None, default_folder: Path) -> Path:
    if named is not None:
        folders = [named]
        if named.is_file():
            return named
    else:
        model_folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        # In Meta's downloads the tokenizer is in the folder above the model's.
        folders = [model_folder, model_folder.parent, default_folder]
    for folder in folders:
        for name in _FILE_NAMES:
            if (folder / name).is_file():
                return folder / name
    raise UserError(
        f"There is no tokenizer.model, tokenizer.json or tekken.json in {folders[0]} or "
        f"{folders[-1]}; put the model's own there or name it with --tokenizer_path."
    )


def _from_file(path: Path) -> Tokenizer:
    if path.suffix == ".gguf":
        from llama_cpu.checkpoint.gguf import read_gguf

        return _from_gguf(path, read_gguf(path)[0])
    data = read_small_file(path)
    try:
        tokenizer = _from_json(path, data) if path.suffix == ".json" else _from_model_file(data)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a tokenizer file or is damaged; get a good copy of it."
        ) from error
    tokenizer.chat_template = _template_beside(path)
    return tokenizer


def _template_beside(path: Path) -> str:
    """Read the chat template from Hugging Face's files beside a tokenizer, the newest first."""
    jinja_file = path.with_name("chat_template.jinja")
    if jinja_file.exists():
        return read_small_file(jinja_file).decode(errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = path.with_name(name)
        if file.exists() and (template := _template(read_json(file).get("chat_template"), file)):
            return template
    return ""


def _template(value: Any, file: Path) -> str:
    """Return the chat template in ``value``, which is a string, a list of named ones or None."""
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        defaults = [entry.get("template") for entry in value if entry.get("name") == "default"]
        value = defaults[0] if defaults else None
    if value is not None and not isinstance(value, str):
        raise UserError(f"{file}: the chat template is not text; get a good copy of this file.")
    return value or ""


def _from_json(path: Path, data: bytes) -> Tokenizer:
    if "tekken" in path.name:
        from llama_cpu.tokenization.tekken import TekkenTokenizer

        return TekkenTokenizer(data)
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


def _check_size(tokenizer: Tokenizer, source: Path, checkpoint: "Checkpoint") -> None:
    """Raise UserError unless every token has a row of the embedding and few rows are unused.

    Models pad their embeddings to a round number of rows: Qwen2.5 has 151,936 or 152,064 for
    151,665 tokens.
    """
    rows = checkpoint.config.vocab_size
    padding = rows - tokenizer.n_tokens
    if padding < 0 or (padding and (padding >= max(256, rows // 256) or rows % 8)):
        raise UserError(
            f"{source} has {tokenizer.n_tokens} tokens but the model in {checkpoint.path} has "
            f"{rows}, so they do not belong together; name the model's own tokenizer with "
            "--tokenizer_path."
        )
