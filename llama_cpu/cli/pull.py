"""``llama-cpu pull``: download a model from Hugging Face's hub."""

import argparse
import sys

from llama_cpu.cli.options import add_debug_argument
from llama_cpu.hub.reference import EXAMPLE, parse_reference
from llama_cpu.hub.starters import starters
from llama_cpu.system.text import human_bytes


def add_pull_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _epilog()
    parser.add_argument(
        "model",
        metavar="ORG/REPO[:QUANT]",
        help=f"repository, and the quantization of a GGUF file in it (default: Q4_K_M, or what is "
        f"nearest to it), such as {EXAMPLE}",
    )
    add_debug_argument(parser)


def _epilog() -> str:
    lines = [
        f"  {each.reference}  ({human_bytes(each.bytes)}, {each.licence})" for each in starters()
    ]
    return "models to begin with:\n" + "\n".join(lines)


def run_pull(args: argparse.Namespace) -> int:
    """Download the model and print its path. Returns the exit code; raises what ``pull`` does."""
    reference = parse_reference(args.model)
    from llama_cpu.hub.console import pull_with_bar  # imports huggingface_hub

    path = pull_with_bar(reference).path
    print(path)
    print(f"Chat with it: llama-cpu chat --model {reference}", file=sys.stderr)
    return 0
