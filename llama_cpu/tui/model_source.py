"""Where the app finds further models, and the model that the user chose among them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cpu.chat.session_protocol import ChooseModel, ModelChoice
from llama_cpu.errors import UserError
from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.loading.discovery import FoundModel


@dataclass(frozen=True)
class ChosenModel:
    """A model and the precision to load it in."""

    found: "FoundModel"
    precision: WeightFormat


def _no_models() -> Iterable["FoundModel"]:
    return ()


def _no_choice(*_: object) -> ModelChoice:
    raise UserError("This app was started with one model only.")


@dataclass(frozen=True)
class ModelSource:
    """``find`` looks for models, ``choose`` checks one; both are called in threads.

    ``kv_int8``: whether the KV cache of any model will be in int8.
    """

    find: Callable[[], Iterable["FoundModel"]] = _no_models
    choose: ChooseModel = _no_choice
    kv_int8: bool = False
