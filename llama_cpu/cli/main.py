"""The commands of ``llama-cpu``: chooses the one on the command line and reports errors.

PyTorch and Textual are imported by the functions that need them, so that --help is quick.
"""

import argparse
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from llama_cpu import __version__
from llama_cpu.cli.bench import add_bench_arguments, run_bench
from llama_cpu.cli.chat import add_chat_arguments, run_chat
from llama_cpu.cli.complete import add_complete_arguments, run_complete
from llama_cpu.cli.config import add_config_command_arguments, run_config
from llama_cpu.cli.entry import is_own, missing
from llama_cpu.cli.history import add_history_commands, run_history
from llama_cpu.cli.merge import add_merge_arguments, run_merge
from llama_cpu.cli.options import Parser
from llama_cpu.cli.pull import add_pull_arguments, run_pull
from llama_cpu.errors import EXIT_USER_ERROR, Cancelled, UserError
from llama_cpu.settings.suggestions import unknown
from llama_cpu.settings.user_config import read_config
from llama_cpu.system.fault_log import write_fault
from llama_cpu.system.process import prepare_for_torch
from llama_cpu.system.safe_reading import reason
from llama_cpu.system.text import printable

EXIT_PROGRAM_ERROR = 1
EXIT_INTERRUPTED = 130  # what a shell reports after Ctrl+C


@dataclass(frozen=True)
class Command:
    """One command; ``about`` is the line that describes it in ``llama-cpu --help``.

    ``run`` takes the parsed options and returns the exit code. If ``reads_config``, config.toml
    provides the defaults of the options, and is also there as ``args.user_config``.
    """

    about: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    reads_config: bool = True


_EXAMPLES = """\
examples:
  llama-cpu chat                              chat with the model in model/, or a demo model
  llama-cpu chat --ckpt_dir FILE.gguf --bf16  chat with another one, in bfloat16
  llama-cpu complete "Once upon a time"       print a completion, with its time and memory
  llama-cpu history search paris              find a conversation

'llama-cpu COMMAND --help' lists the options of a command.
"""

COMMANDS = {
    "chat": Command(
        "Chat with a model: in an app, or line by line with --plain.",
        add_chat_arguments,
        run_chat,
    ),
    "complete": Command(
        "Complete one text, or answer one question with --chat.",
        add_complete_arguments,
        run_complete,
    ),
    "pull": Command(
        "Download a model from Hugging Face's hub.",
        add_pull_arguments,
        run_pull,
        reads_config=False,
    ),
    "bench": Command(
        "Measure how fast a model reads and writes on this machine.",
        add_bench_arguments,
        run_bench,
    ),
    "merge": Command(
        "Join the shards of a model into one file, also in fewer bits.",
        add_merge_arguments,
        run_merge,
        reads_config=False,
    ),
    "history": Command(
        "List, show, search, export, import and delete conversations.",
        add_history_commands,
        run_history,
    ),
    "config": Command(
        "Print all settings and keys as a config.toml file.",
        add_config_command_arguments,
        run_config,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """``llama-cpu COMMAND ...``. Returns the exit code."""
    parser = Parser(
        prog="llama-cpu",
        description="Run language models on the CPU.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llama_cpu {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        added = subparsers.add_parser(name, help=command.about, description=command.about)
        _add_to(added, command)
    words = sys.argv[1:] if argv is None else list(argv)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        names = ", ".join(COMMANDS)
        parser.error(unknown("command", words[0], COMMANDS, f"The commands are {names}."))
    return _run(parser, words)


def chat_main(argv: Sequence[str] | None = None) -> int:
    """``python example_chat.py ...``: the same as ``llama-cpu chat``."""
    return _run(command_parser("chat", "example_chat.py"), argv)


def complete_main(argv: Sequence[str] | None = None) -> int:
    """``python example_cpu.py PROMPT ...``: the same as ``llama-cpu complete``."""
    return _run(command_parser("complete", "example_cpu.py"), argv)


def merge_main(argv: Sequence[str] | None = None) -> int:
    """``python merge_weights.py ...``: the same as ``llama-cpu merge``."""
    return _run(command_parser("merge", "merge_weights.py"), argv)


def command_parser(name: str, prog: str) -> Parser:
    """Create a parser for the options of a single command."""
    parser = Parser(prog=prog, description=COMMANDS[name].about)
    _add_to(parser, COMMANDS[name])
    return parser


def _add_to(parser: argparse.ArgumentParser, command: Command) -> None:
    command.add_arguments(parser)
    parser.set_defaults(command=command, command_parser=parser)


def _run(parser: Parser, argv: Sequence[str] | None) -> int:
    args = parser.parse_args(argv)

    def work() -> int:
        command: Command = args.command
        if not command.reads_config:
            return command.run(args)
        return command.run(_with_user_defaults(parser, args, argv))

    return run_reporting_errors(work, args.debug)


def _with_user_defaults(
    parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the options again, with the values of config.toml as defaults.

    The settings of a preset go before the file's others. Raises UserError if the file is broken,
    or if it has no such preset.
    """
    config = read_config(getattr(args, "config", None), getattr(args, "no_config", False))
    values = dict(config.values)
    if hasattr(args, "preset") and (preset := args.preset or values.get("preset")):
        values |= config.preset(preset)
    if getattr(args, "history", None):  # given on the command line, it overrides no_history
        values.pop("no_history", None)
    if getattr(args, "ckpt_dir", None):  # as well
        values.pop("model", None)
    args.command_parser.set_defaults(**values, user_config=config)
    return parser.parse_args(argv)


def run_reporting_errors(work: Callable[[], int], debug: bool) -> int:
    """Call ``work`` and return its exit code.

    A UserError becomes one line on standard error and exit code 2; any other error becomes one
    line that names a log file, and exit code 1 or, with ``debug``, a traceback.
    """
    warnings.showwarning = _show_warning
    prepare_for_torch()
    if isinstance(sys.stdout, io.TextIOWrapper):  # the terminal's encoding may lack characters
        sys.stdout.reconfigure(errors="replace")
    try:
        return work()
    except UserError as error:
        if debug:
            traceback.print_exc()
        _print_error(str(error))
        return EXIT_USER_ERROR
    except (KeyboardInterrupt, Cancelled):
        print("Stopped.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has ended, as in `| head`
        _discard_output()
        return 0
    except OSError as error:  # for instance, standard output goes to a full disk
        if debug:
            traceback.print_exc()
        _print_error(f"{error.filename or 'The output'}: {reason(error)}.")
        _discard_output()
        return EXIT_USER_ERROR
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and not is_own(error):
            _print_error(missing(error))
            return EXIT_USER_ERROR
        _print_error(_about_fault(error))
        return EXIT_PROGRAM_ERROR


def _about_fault(error: Exception) -> str:
    """One sentence about an unexpected error, whose traceback goes to a file."""
    log = write_fault(error)
    where = f"its traceback is in {log}" if log else "--debug prints a traceback"
    return f"{type(error).__name__}: {str(error)[:500]} (a fault of llama_cpu; {where})."


def _print_error(message: str) -> None:
    """Print one line, even if a file name in the message contains line breaks."""
    print("Error: " + printable(message).replace("\n", "\u240a"), file=sys.stderr)


def _discard_output() -> None:
    """Redirect standard output to the null device, so that flushing it does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print warnings for the user; hide those for programmers, such as deprecations."""
    if category is UserWarning:
        print(f"Note: {message}", file=sys.stderr)
