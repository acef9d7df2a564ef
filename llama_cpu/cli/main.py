"""The commands. Heavy modules are imported where they are used, so that --help is quick."""

import argparse
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from llama_cpu import __version__
from llama_cpu.cli.options import Parser, add_config_arguments, chat_parser, complete_parser
from llama_cpu.errors import EXIT_USER_ERROR, Cancelled, UserError
from llama_cpu.settings.user_config import UserConfig, read_config
from llama_cpu.system.paths import state_folder
from llama_cpu.system.process import prepare_for_torch
from llama_cpu.system.safe_reading import reason
from llama_cpu.system.text import printable

EXIT_PROGRAM_ERROR = 1
EXIT_INTERRUPTED = 130  # as a shell reports Ctrl+C


def chat_main(argv: Sequence[str] | None = None, prog: str = "example_chat.py") -> int:
    """``python example_chat.py``: the app in a terminal, a plain line-by-line chat otherwise."""
    parser = chat_parser(prog)
    args = parser.parse_args(argv)
    return run_reporting_errors(lambda: _chat(*_configured(parser, args, argv)), args.debug)


def complete_main(argv: Sequence[str] | None = None, prog: str = "example_cpu.py") -> int:
    """``python example_cpu.py PROMPT``."""
    parser = complete_parser(prog)
    args = parser.parse_args(argv)
    return run_reporting_errors(lambda: _complete(*_configured(parser, args, argv)), args.debug)


def _configured(
    parser: argparse.ArgumentParser, args: argparse.Namespace, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, UserConfig]:
    """The options once more, with the user's own defaults where nothing was given.

    Raises UserError where the file with them is broken.
    """
    config = read_config(args.config, args.no_config)
    values = dict(config.values)
    if getattr(args, "history", None):  # which says the contrary
        values.pop("no_history", None)
    parser.set_defaults(**values)
    return parser.parse_args(argv), config


def merge_main(argv: Sequence[str] | None = None, prog: str = "merge_weights.py") -> int:
    """``python merge_weights.py --model_size 13B``."""
    from llama_cpu.cli.merge import add_merge_arguments, run_merge

    parser = Parser(
        prog=prog,
        description="Join the shards of a LLaMA checkpoint into one file, in little memory.",
    )
    add_merge_arguments(parser)
    args = parser.parse_args(argv)
    return run_reporting_errors(lambda: run_merge(args), args.debug)


def history_main(argv: Sequence[str] | None = None, prog: str = "llama-cpu history") -> int:
    """``llama-cpu history list|show|export|import|delete|caches|search ...``"""
    from llama_cpu.cli.history import add_history_commands, run_history

    parser = Parser(prog=prog, description="The conversations that the chat has kept.")
    add_history_commands(parser)
    args = parser.parse_args(argv)
    return run_reporting_errors(
        lambda: run_history(args, read_config().values.get("history")), args.debug
    )


def config_main(argv: Sequence[str] | None = None, prog: str = "llama-cpu config") -> int:
    """``llama-cpu config``"""
    parser = Parser(prog=prog, description="All settings with their values, as a config.toml.")
    add_config_arguments(parser)
    parser.set_defaults(debug=False)
    args = parser.parse_args(argv)
    return run_reporting_errors(lambda: _config(args), args.debug)


def main(argv: Sequence[str] | None = None) -> int:
    """``llama-cpu chat|complete|merge|history|config ...``"""
    commands: dict[str, Callable[..., int]] = {
        "chat": chat_main,
        "complete": complete_main,
        "merge": merge_main,
        "history": history_main,
        "config": config_main,
    }
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in commands:
        return commands[words[0]](words[1:], prog=f"llama-cpu {words[0]}")
    parser = Parser(prog="llama-cpu", description="LLaMA models on the CPU.")
    parser.add_argument("command", choices=commands, help="see llama-cpu COMMAND --help")
    parser.add_argument("--version", action="version", version=f"llama_cpu {__version__}")
    parser.parse_args(words)
    return EXIT_USER_ERROR


def run_reporting_errors(work: Callable[[], int], debug: bool) -> int:
    """Exit code of ``work``; what the user can put right is one sentence and exit code 2."""
    warnings.showwarning = _show_warning
    prepare_for_torch()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that has no emoji, say
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
    except BrokenPipeError:  # the reader of a pipe went away, for instance `| head`
        _discard_output()
        return 0
    except OSError as error:  # a full disk behind standard output
        if debug:
            traceback.print_exc()
        _print_error(f"{error.filename or 'The output'}: {reason(error)}.")
        _discard_output()
        return EXIT_USER_ERROR
    except Exception as error:
        if debug:
            raise
        _print_error(f"{type(error).__name__}: {error} (a fault of the program; --debug has more)")
        return EXIT_PROGRAM_ERROR


def _print_error(message: str) -> None:
    """One line, whatever names from files are in it."""
    print("Error: " + printable(message).replace("\n", "\u240a"), file=sys.stderr)


def _discard_output() -> None:
    """What is still to be written to standard output goes nowhere, instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if category is UserWarning:
        print(f"Note: {message}", file=sys.stderr)


def _chat(args: argparse.Namespace, config: UserConfig) -> int:
    # Textual draws on standard error, so that must be a terminal as well.
    is_terminal = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    run = _plain_chat if args.plain or not is_terminal else _chat_in_app
    return run(args, config)


def _chat_in_app(args: argparse.Namespace, config: UserConfig) -> int:
    from llama_cpu.tui.preferences import preferences_from

    preferences = preferences_from(config)  # first: loading may be a download
    preferences = replace(preferences, welcome_marker=state_folder() / "welcomed")
    from llama_cpu.chat.choose_model import model_chooser
    from llama_cpu.chat.open_session import open_conversation, session_opener
    from llama_cpu.loading.discovery import find_models
    from llama_cpu.loading.plan import plan_from_arguments
    from llama_cpu.tui.app import run_app
    from llama_cpu.tui.model_source import ModelSource

    plan = plan_from_arguments(args)
    folders = config.values.get("model_folders", [])
    with open_conversation(args) as conversation:
        open_session = session_opener(plan, args, conversation)
        choose = model_chooser(args, plan, conversation)
        models = ModelSource(lambda: find_models(folders), choose)
        return run_app(plan, open_session, args.debug, preferences, models)


def _plain_chat(args: argparse.Namespace, config: UserConfig) -> int:
    from llama_cpu.chat.open_session import open_conversation
    from llama_cpu.cli.plain_chat import run_plain_chat
    from llama_cpu.loading.plan import plan_from_arguments

    plan = plan_from_arguments(args)
    with open_conversation(args) as conversation:
        return run_plain_chat(plan, args, conversation)


def _complete(args: argparse.Namespace, config: UserConfig) -> int:
    from llama_cpu.cli.complete import run_complete
    from llama_cpu.loading.plan import plan_from_arguments

    asked = any(getattr(args, name) != config.values.get(name) for name in ("system", "template"))
    if asked and not args.chat:
        print("Note: --system and --template have no effect without --chat.", file=sys.stderr)
    return run_complete(plan_from_arguments(args), args)


def _config(args: argparse.Namespace) -> int:
    from llama_cpu.settings.generation_settings import Settings
    from llama_cpu.settings.user_config import ENTRIES, sample
    from llama_cpu.tui.actions import KEYED
    from llama_cpu.tui.keys import keys_of
    from llama_cpu.tui.preferences import preferences_from

    preferences = preferences_from(read_config(args.config, args.no_config))
    defaults = {name: getattr(entry, "default", None) for name, entry in ENTRIES.items()}
    keys = {
        name: (keys_of(name, preferences.keymap), action.help) for name, action in KEYED.items()
    }
    print(sample(preferences.config, defaults | Settings().as_dict(), keys), end="")
    return 0
