"""Opens the conversation that the command line's options ask for, without importing PyTorch."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from llama_cpu.chat.conversation import Conversation
from llama_cpu.errors import UserError
from llama_cpu.history.store import History
from llama_cpu.system.paths import history_path


@contextmanager
def open_conversation(args: argparse.Namespace) -> Iterator[Conversation]:
    """The conversation that the options ask for: a new one or, with --continue, the latest.

    Raises UserError if the conversation database cannot be used.
    """
    try:
        history = History(None if args.no_history else args.history or history_path())
    except UserError as error:
        raise UserError(
            f"{error} With --no_history, conversations are not saved and no file is needed."
        ) from error
    with history:
        conversation = Conversation(history, system=args.system or "")
        if args.continue_latest and (latest := history.latest()):
            conversation.open(latest.id)
            if args.system:
                conversation.system = args.system
                conversation.settings = {**conversation.settings, "system": args.system}
        try:
            yield conversation
        finally:
            conversation.close()
