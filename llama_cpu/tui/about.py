"""Describes the model: the title line, and the notice for the demo model."""

from collections.abc import Mapping

from llama_cpu.chat.session_protocol import ModelInfo
from llama_cpu.system.text import printable
from llama_cpu.tui.user_keys import keys_of, shown

LOADING = "The model is loading"
NO_MODEL = "No model is loaded"


def title(session: ModelInfo) -> str:
    """Name the model and how it runs; a narrow screen cuts off the end, which matters least."""
    guess = " (a guess; --template)" if session.template_guessed else ""
    parts = [
        session.model_name,
        session.precision,
        f"{session.template_name} template{guess}",
        "1 thread" if session.threads == 1 else f"{session.threads} threads",
    ]
    return printable(" · ".join(parts))


def demo_notice(keymap: Mapping[str, str]) -> str:
    """Say in one line how to get from the demo model to a better one."""
    key = shown(keys_of("models", keymap).split(",")[0])
    return f"A small model, often wrong. Better: {key} or python -m llama_cpu pull."
