"""Chat with a LLaMA model on the CPU: ``python example_chat.py``. See --help."""

import sys

from llama_cpu.cli.main import chat_main

if __name__ == "__main__":
    sys.exit(chat_main())
