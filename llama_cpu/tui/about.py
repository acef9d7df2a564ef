"""What is said of the model: the title line, and the notice that it is only the demo model."""

from pathlib import Path
from typing import TYPE_CHECKING

from llama_cpu.system.paths import model_folder, tokenizer_folder
from llama_cpu.system.text import printable

if TYPE_CHECKING:
    from llama_cpu.chat.session import ChatSession


def title(session: "ChatSession") -> str:
    """Which model, and how it is run. What matters least is last, where a narrow screen cuts."""
    guess = " (a guess; --template)" if session.template_guessed else ""
    parts = [
        session.model_name,
        session.precision,
        f"{session.template_name} template{guess}",
        "1 thread" if session.threads == 1 else f"{session.threads} threads",
    ]
    return printable(" · ".join(parts))


def demo_notice() -> str:
    """How to get from the demo model to LLaMA."""
    model, tokenizer = short_path(model_folder()), short_path(tokenizer_folder())
    width = max(len(model), len(tokenizer))
    return (
        "This is a small demo model; it is often wrong. To chat with LLaMA, put its files here and"
        " start again:\n"
        f"  {model:<{width}}  params.json and consolidated.*.pth\n"
        f"  {tokenizer:<{width}}  tokenizer.model"
    )


def short_path(path: Path) -> str:
    """``~/llama/model`` for what is under the user's home."""
    try:
        return str("~" / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):  # not under it, or there is none
        return str(path)
