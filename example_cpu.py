"""Complete one prompt on the CPU: ``python example_cpu.py "PROMPT"``. See --help."""

import sys

from llama_cpu.cli.entry import run

if __name__ == "__main__":
    sys.exit(run("complete_main"))
