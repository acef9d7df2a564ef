"""Which files of a repository are needed, decided by their names alone."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from llama_cpu.errors import UserError
from llama_cpu.hub.reference import Reference

# Good answers for their size first. Small files below 4 bits lose more than they save.
PREFERRED = (
    "Q4_K_M", "Q4_K_S", "Q4_K_L", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL", "Q4_K_XL", "Q5_K_M", "Q5_K_S",
    "Q5_K_L", "Q5_0", "Q5_1", "Q6_K", "Q6_K_L", "Q8_0", "Q3_K_L", "Q3_K_M", "Q3_K_XL", "Q3_K_S",
    "BF16", "F16", "F32", "Q2_K",
)  # fmt: skip
_QUANTIZATION = re.compile(
    r"(?:^|[-._])((?:UD-)?I?Q\d(?:_\d|_K|_NL|_XXS|_XS|_S|_M)(?:_X?X?[SML])?|BF16|F(?:P)?16|F(?:P)?32)"
    r"(?=$|[-._])",
    re.IGNORECASE,
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
# What the readers of a Hugging Face folder use, beside the weights.
_BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "tokenizer.model.v3", "tekken.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_INDEX = "model.safetensors.index.json"
_WEIGHTS = re.compile(r"model(-(\d{5})-of-(\d{5}))?\.safetensors")


@dataclass(frozen=True)
class Choice:
    """The files of a model. ``is_folder``: a Hugging Face folder, and not one GGUF file.

    ``note``: a sentence if the user should know how it was chosen.
    """

    names: tuple[str, ...]
    is_folder: bool = False
    note: str = ""


def choose_files(names: Collection[str], reference: Reference) -> Choice:
    """Choose among the names of all files of a repository.

    Raises UserError, which lists what is there, if the wanted quantization is missing, and if
    there is nothing that this program reads.
    """
    repository = reference.repository
    gguf_files = sorted(name for name in names if is_language_model(name))
    if gguf_files:
        return _choose_gguf(gguf_files, reference)
    weights = sorted(name for name in names if _WEIGHTS.fullmatch(name))
    if not weights:
        raise UserError(_nothing(repository, names))
    if reference.quantization:
        raise UserError(
            f"{repository} has no GGUF files, so it has no {reference.quantization}; leave "
            f"{':' + reference.quantization!r} off to get its safetensors files."
        )
    if "config.json" not in names:
        raise UserError(f"{repository} has weights, but no config.json; take another repository.")
    beside = [name for name in (*_BESIDE_WEIGHTS, _INDEX) if name in names]
    if "model.safetensors" in weights:  # not both it and the shards of another copy
        weights = ["model.safetensors"]
        beside = [name for name in beside if name != _INDEX]
    return Choice((*beside, *weights), is_folder=True)


def is_complete(names: Collection[str]) -> bool:
    """Return whether all shards of the safetensors files with these names are there."""
    matches = [match for name in names if (match := _WEIGHTS.fullmatch(name))]
    whole = any(match[1] is None for match in matches)
    return whole or any(len(matches) == int(match[3]) for match in matches)


def quantization_of(name: str) -> str:
    """Return the quantization that a GGUF file's name contains, in capitals; "" if none."""
    path = PurePosixPath(name)
    for text in (_PART.sub("", path.stem), path.parent.name):
        if found := _QUANTIZATION.findall(text):
            return str(found[-1]).upper().replace("FP", "F")
    return ""


def is_language_model(name: str) -> bool:
    """Return whether a file is a language model: not an image projector or an importance matrix."""
    file = PurePosixPath(name.lower())
    return file.suffix == ".gguf" and "mmproj" not in file.name and "imatrix" not in file.name


def is_first_part(name: str) -> bool:
    """Return whether a GGUF file is the first of several parts, or whole."""
    match = _PART.search(PurePosixPath(name).stem)
    return match is None or int(match[1]) == 1


def is_split(name: str) -> bool:
    """Return whether a GGUF file is one of several parts."""
    return bool(_PART.search(PurePosixPath(name).stem))


def _choose_gguf(files: Sequence[str], reference: Reference) -> Choice:
    repository, wanted = reference.repository, reference.quantization.upper()
    single = [name for name in files if not is_split(name)]
    if wanted:
        matching = [name for name in files if _is_called(name, wanted)]
        if not matching:
            raise UserError(f"{repository} has no {wanted}; there are: {_there(files)}.")
        single = [name for name in matching if not is_split(name)]
    if not single:
        raise UserError(
            f"{str(reference)!r} is split into several GGUF files, which this program does not "
            "read; download them yourself and join them with gguf-split, or choose a smaller one."
        )
    name = min(single, key=_rank)
    chosen = quantization_of(name)
    note = ""
    if not wanted and chosen != PREFERRED[0] and len(single) > 1:
        note = f"There is no {PREFERRED[0]}, so {chosen or name} is taken of: {_there(single)}."
    return Choice((name,), note=note)


def _is_called(name: str, wanted: str) -> bool:
    found = quantization_of(name)
    file = PurePosixPath(name.upper())
    return wanted in (found, found.removeprefix("UD-"), file.name, file.stem)


def _rank(name: str) -> tuple[int, int, str]:
    found = quantization_of(name)
    plain = found.removeprefix("UD-")
    rank = PREFERRED.index(plain) if plain in PREFERRED else len(PREFERRED)
    return rank, len(found), name


def _there(files: Sequence[str]) -> str:
    labels = dict.fromkeys(quantization_of(name) or PurePosixPath(name).name for name in files)
    return ", ".join(list(labels)[:30])


def _nothing(repository: str, names: Collection[str]) -> str:
    if any(name.endswith((".bin", ".pth", ".pt", ".ckpt")) for name in names):
        return (
            f"{repository} has only pickled weights, which are not downloaded because such files "
            "can contain programs; take a repository with GGUF or safetensors files."
        )
    return (
        f"{repository} has no GGUF or safetensors files of a language model; take another "
        "repository, often the same name with -GGUF."
    )
