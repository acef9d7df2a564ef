"""The model that ``--model`` names: a path, a model in the hub's cache, or one to download."""

from dataclasses import dataclass
from pathlib import Path

from llama_cpu.hub.cached import cached_model
from llama_cpu.hub.reference import parse_reference


@dataclass(frozen=True)
class NamedModel:
    """Where a model is; None: the default one.

    ``name``: what it is called, as in the table of models; "": by its path.
    """

    path: Path | None
    name: str = ""


def named_model(text: str) -> NamedModel:
    """Return the model that the user named, after downloading it if necessary.

    A model that is in the hub's cache is used without asking the hub. Raises UserError if the text
    is neither a path nor a model of the hub, and what ``pull`` raises.
    """
    path = Path(text)
    try:
        if path.exists():
            return NamedModel(path)
    except (OSError, ValueError):  # a name that cannot be a file's
        pass
    reference = parse_reference(text)
    found = cached_model(reference)
    if found is None:
        from llama_cpu.hub.console import pull_with_bar  # imports huggingface_hub

        found = pull_with_bar(reference).path
    repository = reference.repository  # a snapshot's folder is called by its commit
    return NamedModel(found, f"{repository}/{found.stem}" if found.is_file() else repository)
