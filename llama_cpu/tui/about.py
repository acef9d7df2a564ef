"""Describes the model: the title line, and the notice for the demo model."""

from llama_cpu.chat.session_protocol import ModelInfo
from llama_cpu.system.paths import model_folder, short_path, tokenizer_folder
from llama_cpu.system.text import printable


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


def demo_notice() -> str:
    """Explain how to get from the demo model to another one."""
    model, tokenizer = short_path(model_folder()), short_path(tokenizer_folder())
    width = max(len(model), len(tokenizer))
    return (
        "This is a small demo model; it is often wrong. To chat with LLaMA, put its files here and"
        " start again:\n"
        f"  {model:<{width}}  params.json and consolidated.*.pth\n"
        f"  {tokenizer:<{width}}  tokenizer.model"
    )
