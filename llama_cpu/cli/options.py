"""The parser of the command line, and the options that several commands share."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llama_cpu import __version__
from llama_cpu.errors import EXIT_USER_ERROR
from llama_cpu.settings.suggestions import unknown
from llama_cpu.settings.user_config import LARGEST_MIB
from llama_cpu.system.paths import history_path, short_path
from llama_cpu.weights.formats import FORMATS

_FILES = """\
files:
  model/       params.json with consolidated.00.pth, all consolidated.NN.pth shards or merged.pth
               (Meta); config.json with *.safetensors or pytorch_model*.bin (Hugging Face); or a
               .gguf file
  tokenizer/   tokenizer.model, if the model's folder does not contain a tokenizer
If there is no model, a small demo model is downloaded and used. llama-cpu pull --help lists better
ones.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose options may be written with hyphens or underscores.

    An error is one line on standard error that, for an unknown option, suggests a known one.
    """

    def parse_known_args(  # type: ignore[override]  # typeshed overloads it by namespace type
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as ArgumentParser does, but exit if an argument is unknown.

        argparse would leave it to the outermost parser, which does not know a command's options.
        """
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        options = [_with_underscores(word) for word in words[:end]]
        parsed, others = super().parse_known_args(options + words[end:], namespace)
        if others:
            self._refuse(others)
        return parsed, others

    def _refuse(self, others: Sequence[str]) -> NoReturn:
        options = [each.partition("=")[0] for each in others if each.startswith("-")]
        if not options:
            self.error(f"Unexpected argument: {others[0]!r}.")
        known = [each for action in self._actions for each in action.option_strings]
        self.error(unknown("option", options[0], known, "All options are listed by --help."))

    def error(self, message: str) -> NoReturn:
        """Exit with one line that names the program and says where help is."""
        line = re.sub(r"\s+", " ", message)
        print(f"{self.prog}: {line} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


def _with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs a model."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _FILES
    model = parser.add_argument_group("model")
    which = model.add_mutually_exclusive_group()
    which.add_argument("--ckpt_dir", type=Path, metavar="PATH", help="model folder or .gguf file")
    which.add_argument(
        "--model",
        metavar="NAME",
        help="model on Hugging Face's hub, ORG/REPO or ORG/REPO:QUANT, which is downloaded if it "
        "is not on this computer; or a path, as for --ckpt_dir",
    )
    model.add_argument(
        "--tokenizer_path",
        type=Path,
        metavar="PATH",
        help="tokenizer file, or the folder that contains it",
    )
    precision = model.add_mutually_exclusive_group()
    for each in FORMATS:
        precision.add_argument(
            each.switch,
            dest="precision",
            action="store_const",
            const=each.label,
            default=None,
            help=each.help,
        )
    model.add_argument(
        "--max_seq_len",
        type=int,
        metavar="N",
        help="context length in tokens (default: the model's own, at most 4096)",
    )
    model.add_argument(
        "--threads",
        type=_thread_count,
        metavar="N",
        help="number of threads (default: the number of physical cores)",
    )
    model.add_argument(
        "--mmap",
        action="store_true",
        default=None,
        help="memory-map weights that are stored in the requested precision, which makes loading "
        "instant (default: unless this CPU runs faster on a repacked copy)",
    )
    model.add_argument(
        "--no_mmap", dest="mmap", action="store_false", help="copy all weights into memory"
    )
    model.add_argument(
        "--retune",
        action="store_true",
        help="measure again which matrix products are the fastest on this processor (default: as "
        "measured at the first start)",
    )
    model.add_argument(
        "--kv_int8",
        action="store_true",
        help="keep the KV cache in 8 bits with one scale per head and token: about half the "
        "memory of bfloat16",
    )
    model.add_argument(
        "--no_kv_int8",
        dest="kv_int8",
        action="store_false",
        help="keep the KV cache in the type that belongs to the precision (default)",
    )
    model.add_argument(
        "--lookup",
        action="store_true",
        default=None,
        help="prompt-lookup speculative decoding: the same output, faster on repetitive text "
        "(default: on where checking several tokens at once is cheap)",
    )
    model.add_argument(
        "--no_lookup",
        dest="lookup",
        action="store_false",
        help="turn prompt-lookup speculative decoding off",
    )
    model.add_argument(
        "--draft_ckpt_dir",
        type=Path,
        metavar="PATH",
        help="draft model for speculative decoding: a smaller model with the same vocabulary",
    )
    model.add_argument(
        "--force", action="store_true", help="load the model even if memory seems too small"
    )
    add_config_arguments(parser)
    add_debug_argument(parser)
    parser.add_argument("--version", action="version", version=f"llama_cpu {__version__}")


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that generates answers."""
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="randomness; 0 always chooses the most probable token (default: the model's "
        "own, else 0.8)",
    )
    answers.add_argument(
        "--top_p",
        type=float,
        metavar="P",
        help="sample from the most probable tokens that together reach probability P "
        "(default: the model's own, else 0.95)",
    )
    answers.add_argument(
        "--top_k",
        type=int,
        metavar="K",
        help="sample from the K most probable tokens (default: no limit)",
    )
    answers.add_argument(
        "--min_p",
        type=float,
        metavar="P",
        help="exclude tokens below P times the probability of the best token",
    )
    answers.add_argument(
        "--repetition_penalty",
        type=float,
        metavar="R",
        help="values above 1 discourage repetition",
    )
    answers.add_argument(
        "--seed", type=int, metavar="N", help="random seed, for reproducible answers"
    )
    answers.add_argument(
        "--max_gen_len",
        type=positive,
        default=1024,
        metavar="N",
        help="maximum number of tokens in an answer (default 1024)",
    )
    answers.add_argument(
        "--preset",
        metavar="NAME",
        help="settings from a table [presets.NAME] of config.toml; other options go before them",
    )
    answers.add_argument("--system", metavar="TEXT", help="system prompt")
    answers.add_argument(
        "--template",
        metavar="NAME",
        help="chat template: llama-2, llama-3, mistral-v1, mistral-v3, mistral-v3-tekken, "
        "mistral-v7-tekken, chatml, vicuna, alpaca, transcript, or a Jinja file (default: the "
        "model's own, or a guess)",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose config.toml."""
    file = parser.add_mutually_exclusive_group()
    file.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="configuration file with your own defaults (see llama-cpu config)",
    )
    file.add_argument("--no_config", action="store_true", help="ignore your configuration file")


def add_history_argument(parser: argparse._ActionsContainer) -> None:
    """Add the option that chooses the conversation database."""
    parser.add_argument(
        "--history",
        type=Path,
        metavar="PATH",
        help=f"conversation database (default: {short_path(history_path())})",
    )


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for tracebacks."""
    parser.add_argument("--debug", action="store_true", help="print a traceback for every error")


def mebibytes(text: str) -> int:
    """Parse an option's size in MiB. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= LARGEST_MIB):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number up to {LARGEST_MIB}")
    return int(text)


def positive(text: str) -> int:
    """Parse an option's whole number above 0. Raises ArgumentTypeError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _thread_count(text: str) -> int:
    number = positive(text)
    if number > 1024:  # several thousand crash the OpenMP library
        raise argparse.ArgumentTypeError(f"{text} is more than 1024")
    return number
