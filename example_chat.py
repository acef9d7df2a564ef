"""Chat with a LLaMA model on the CPU: ``python example_chat.py``. See --help."""

import sys

from llama_cpu.cli.entry import run

if __name__ == "__main__":
    sys.exit(run("chat_main"))
