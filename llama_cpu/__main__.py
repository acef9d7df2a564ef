"""Runs the program with ``python -m llama_cpu``."""

import sys

from llama_cpu.cli.main import main

sys.exit(main())
