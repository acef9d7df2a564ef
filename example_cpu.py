"""Complete one prompt on the CPU: ``python example_cpu.py "PROMPT"``. See --help."""

import sys

from llama_cpu.cli.main import complete_main

if __name__ == "__main__":
    sys.exit(complete_main())
