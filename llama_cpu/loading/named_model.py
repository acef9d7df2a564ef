"""The model that ``--model`` names: a path, a model in the hub's cache, or one to download."""

from pathlib import Path

from llama_cpu.hub.cached import cached_model
from llama_cpu.hub.reference import parse_reference


def named_model(name: str) -> Path:
    """Return the path of a model, after downloading it if necessary.

    A model that is in the hub's cache is used without asking the hub. Raises UserError if the name
    is neither a path nor a model of the hub, and what ``pull`` raises.
    """
    path = Path(name)
    try:
        if path.exists():
            return path
    except (OSError, ValueError):  # a name that cannot be a file's
        pass
    reference = parse_reference(name)
    if cached := cached_model(reference):
        return cached
    from llama_cpu.hub.console import pull_with_bar  # imports huggingface_hub

    return pull_with_bar(reference).path
