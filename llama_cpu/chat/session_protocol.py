"""Protocols for the parts of a chat session and of a loading plan that the app uses.

``ChatSession`` (chat/session.py) and ``LoadPlan`` (loading/plan.py) satisfy these protocols. The
app knows only the protocols, so that it is on the screen before PyTorch is imported, and its tests
run without a model.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Protocol

from llama_cpu.chat.conversation import Conversation
from llama_cpu.generation.events import Event
from llama_cpu.history.rows import StoredMessage
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.system.memory import MemoryReport
from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.lens import LensPart

Progress = Callable[[int, int], None]  # called with the bytes done and the bytes in total
LoadProgress = Callable[[int, int, str], None]  # the same, and the name of the tensor


class MessageText(Protocol):
    """A message as the model reads it."""

    @property
    def role(self) -> str: ...

    @property
    def text(self) -> str: ...


class ModelInfo(Protocol):
    """Figures of a session's loaded model."""

    @property
    def model_name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def template_name(self) -> str: ...

    @property
    def template_guessed(self) -> bool:
        """Whether the template was guessed from the model's name."""
        ...

    @property
    def context_used(self) -> int:
        """Tokens in the KV cache."""
        ...

    @property
    def context_size(self) -> int:
        """Tokens that the KV cache can hold."""
        ...


class ModelBytes(Protocol):
    """The memory of a session's loaded model, in bytes."""

    @property
    def weights_bytes(self) -> int: ...

    @property
    def mapped_bytes(self) -> int:
        """Weights that are memory-mapped from the files."""
        ...

    @property
    def freeable_bytes(self) -> int:
        """What ``let_go`` frees."""
        ...

    @property
    def kv_cache_bytes(self) -> int: ...

    @property
    def kv_cache_used_bytes(self) -> int: ...

    @property
    def kv_cache_touched_bytes(self) -> int:
        """The part of the KV cache that was ever used; its pages stay resident."""
        ...

    def weights_resident_bytes(self, report: MemoryReport) -> int:
        """The part of the weights that is in memory."""
        ...


class Session(ModelInfo, ModelBytes, Protocol):
    """A conversation with a loaded model. The docstrings of ChatSession have the details."""

    @property
    def conversation(self) -> Conversation: ...

    @property
    def messages(self) -> Sequence[MessageText]:
        """The system prompt and all turns."""
        ...

    @property
    def settings(self) -> Settings: ...

    @property
    def default_settings(self) -> Settings: ...

    @property
    def model_settings(self) -> Settings:
        """The settings that the model recommends, without options, presets and system prompt."""
        ...

    def apply(self, settings: Settings) -> None: ...

    def answer(self, stop: Flag) -> Iterator[Event]: ...

    def continue_answer(self, stop: Flag) -> Iterator[Event]: ...

    @property
    def begins_in_thinking(self) -> bool:
        """Whether the prompt of the present answer ends in an opening ``<think>`` tag."""
        ...

    def branch(
        self, answer: StoredMessage, token_ids: list[int], seconds: Sequence[float]
    ) -> None: ...

    def look(self, answer: StoredMessage, stop: Flag) -> Iterator["LensPart"]: ...

    def is_own(self, answer: StoredMessage) -> bool: ...

    def count_tokens(self, text: str) -> int: ...

    def prepare_cache(self, on_progress: Progress, stop: Flag) -> None: ...

    def save_cache(self, on_progress: Progress, stop: Flag) -> None: ...

    @property
    def has_unsaved_cache(self) -> bool: ...

    def let_go(self) -> None: ...

    def close(self) -> None: ...


OpenSession = Callable[[LoadProgress, Flag], Session]


class ModelPlan(Protocol):
    """A model that can be loaded."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Path: ...

    @property
    def precision(self) -> WeightFormat: ...

    @property
    def is_demo(self) -> bool: ...


class ModelChoice(Protocol):
    """Another model, checked and ready to be loaded."""

    @property
    def plan(self) -> ModelPlan: ...

    @property
    def needed(self) -> int:
        """Bytes of memory that it will need."""
        ...

    @property
    def open_session(self) -> OpenSession: ...


# Plans the model of the start; called in the model's thread. Raises Cancelled and UserError.
PlanModel = Callable[[LoadProgress, Flag], ModelChoice]

# A model's file or folder, its name, the precision of its weights, and the bytes that are free for
# it (None: do not check).
ChooseModel = Callable[[Path, str, WeightFormat, "int | None"], ModelChoice]
