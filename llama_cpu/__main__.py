"""Runs the program with ``python -m llama_cpu``."""

import sys

from llama_cpu.cli.entry import run

sys.exit(run("main"))
