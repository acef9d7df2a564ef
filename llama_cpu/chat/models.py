"""The model of the start and those that are chosen later, as the app asks for them.

The app is on the screen before PyTorch is imported: everything that needs PyTorch is imported by
the methods, which are called in threads.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session_protocol import LoadProgress
from llama_cpu.errors import Cancelled
from llama_cpu.system.torch_import import import_gently
from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.choose_model import Choice
    from llama_cpu.loading.discovery import FoundModel
    from llama_cpu.loading.plan import LoadPlan

STARTING = "starting PyTorch"
MEASURING = "Compiling and timing products for this processor (once)"
# Loading can be stopped between them.
_NEEDED = ("torch", "llama_cpu.loading.plan", "llama_cpu.chat.choose_model")


class Models:
    """The models of one run of the app; ``args`` are the options of the command line."""

    def __init__(self, args: argparse.Namespace, conversation: Conversation) -> None:
        self._args = args
        self._conversation = conversation
        self._first: LoadPlan | None = None

    def first(self, on_progress: LoadProgress, stop: Flag) -> "Choice":
        """Plan the model that the options name.

        Raises Cancelled once ``stop`` is set, UserError for a file or an option that is wrong.
        """

        def go_on() -> None:
            if stop.is_set():
                raise Cancelled

        on_progress(0, 0, STARTING)
        import_gently(_NEEDED, go_on)
        from llama_cpu.chat.choose_model import Choice
        from llama_cpu.chat.open_session import session_opener
        from llama_cpu.loading.plan import plan_from_arguments
        from llama_cpu.weights.choice import stored_operators

        args = self._args
        operators = stored_operators(args.retune, lambda: on_progress(0, 0, MEASURING))
        self._first = plan = plan_from_arguments(args, operators)
        return Choice(plan, session_opener(plan, args, self._conversation))

    def choose(self, path: Path, name: str, precision: WeightFormat, free: int | None) -> "Choice":
        """Check another model; see ``choose_model.model_chooser``."""
        from llama_cpu.chat.choose_model import model_chooser

        choose = model_chooser(self._args, self._first, self._conversation)
        return choose(path, name, precision, free)


def find_models(folders: Sequence[Path]) -> "Iterable[FoundModel]":
    """Find the models on this computer; see ``discovery.find_models``."""
    from llama_cpu.loading import discovery

    return discovery.find_models(folders)
