"""Where the app finds further models, and the model that the user chose among them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING

from llama_cpu.chat.session_protocol import ChooseModel, ModelChoice
from llama_cpu.errors import UserError
from llama_cpu.hub.reference import Reference
from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.loading.discovery import FoundModel


@dataclass(frozen=True)
class ChosenModel:
    """A model and the precision to load it in."""

    found: "FoundModel"
    precision: WeightFormat


# Takes the bytes that are done, all bytes, and what is being done.
OnProgress = Callable[[int, int, str], None]
Pull = Callable[[Reference, OnProgress, Flag], Path]


def _pull(reference: Reference, on_progress: OnProgress, stop: Flag) -> Path:
    from llama_cpu.hub.pull import pull  # imports huggingface_hub

    return pull(reference, on_progress, stop).path


def _no_models() -> Iterable["FoundModel"]:
    return ()


def _no_choice(*_: object) -> ModelChoice:
    raise UserError("This app was started with one model only.")


@dataclass(frozen=True)
class ModelSource:
    """``find`` looks for models, ``choose`` checks one, ``pull`` downloads one; all in threads.

    ``kv_int8``: whether the KV cache of any model will be in int8.
    """

    find: Callable[[], Iterable["FoundModel"]] = _no_models
    choose: ChooseModel = _no_choice
    kv_int8: bool = False
    pull: Pull = _pull
