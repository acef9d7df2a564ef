"""The commands. Heavy modules are imported where they are used, so that --help is quick."""

import argparse
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llama_cpu import __version__
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.files import reason
from llama_cpu.locations import state_folder
from llama_cpu.machine import prepare_for_torch
from llama_cpu.text import printable
from llama_cpu.user_config import (
    KV_FILE_MIB,
    KV_FILES_MIB,
    LARGEST_MIB,
    UserConfig,
    read_config,
)

EXIT_USER_ERROR = 2
EXIT_PROGRAM_ERROR = 1
EXIT_INTERRUPTED = 130  # as a shell reports Ctrl+C

_FILES = """\
files:
  model/       params.json with consolidated.00.pth, all consolidated.NN.pth shards or merged.pth
               (Meta); config.json with *.safetensors or pytorch_model*.bin (Hugging Face); or a
               .gguf file
  tokenizer/   tokenizer.model, where the model does not bring its own
With nothing there, a small demo model is fetched and used.
"""


class _Parser(argparse.ArgumentParser):
    """Options may be written with hyphens or underscores; errors are one line."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        options = [_with_underscores(word) for word in words[:end]]
        return super().parse_known_args(options + words[end:], namespace)

    def error(self, message: str):  # type: ignore[override]
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


def _with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What the chat and the completion of one prompt have in common."""
    model = parser.add_argument_group("model")
    model.add_argument("--ckpt_dir", type=Path, metavar="PATH", help="model folder or .gguf file")
    model.add_argument(
        "--tokenizer_path", type=Path, metavar="PATH", help="tokenizer file, or its folder"
    )
    precision = model.add_mutually_exclusive_group()
    precision.add_argument(
        "--bf16",
        dest="precision",
        action="store_const",
        const="bf16",
        default="float32",
        help="keep weights and KV cache in bfloat16: half the memory, and faster",
    )
    precision.add_argument(
        "--float32",
        dest="precision",
        action="store_const",
        const="float32",
        help="keep them in float32 (the default, unless config.toml says otherwise)",
    )
    precision.add_argument(
        "--int8",
        dest="precision",
        action="store_const",
        const="int8",
        help="round the weights to 8 bits: a quarter of the memory, and the fastest",
    )
    model.add_argument(
        "--max_seq_len",
        type=int,
        metavar="N",
        help="context length in tokens (default: what the model was trained for, at most 4096)",
    )
    model.add_argument(
        "--threads", type=_thread_count, metavar="N", help="threads (default: the physical cores)"
    )
    model.add_argument(
        "--lookup",
        action="store_true",
        default=None,
        help="propose what followed the same tokens before, and check several in one pass "
        "(default: where that costs little; the answer is the same)",
    )
    model.add_argument("--no_lookup", dest="lookup", action="store_false", help="do not")
    model.add_argument(
        "--draft_ckpt_dir",
        type=Path,
        metavar="PATH",
        help="a small model with the same vocabulary that proposes tokens instead",
    )
    model.add_argument(
        "--force", action="store_true", help="load even if the memory does not seem to suffice"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--temperature", type=float, metavar="T", help="0 always takes the best token (default 0.8)"
    )
    answers.add_argument(
        "--top_p", type=float, metavar="P", help="draw from the best tokens up to P (default 0.95)"
    )
    answers.add_argument(
        "--top_k", type=int, metavar="K", help="draw from the K best tokens (default: no limit)"
    )
    answers.add_argument(
        "--min_p", type=float, metavar="P", help="no token below P times the best one's probability"
    )
    answers.add_argument(
        "--repetition_penalty", type=float, metavar="R", help="above 1 discourages repetition"
    )
    answers.add_argument("--seed", type=int, metavar="N", help="the same answers every time")
    answers.add_argument(
        "--max_gen_len",
        type=_positive,
        default=1024,
        metavar="N",
        help="tokens in an answer at the most (default 1024)",
    )
    answers.add_argument("--system", metavar="TEXT", help="system prompt")
    answers.add_argument(
        "--template",
        metavar="NAME",
        help="llama-2, llama-3, chatml, vicuna, alpaca, transcript or a Jinja file "
        "(default: the model's own)",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--debug", action="store_true", help="show where in the program an error came from"
    )
    parser.add_argument("--version", action="version", version=f"llama_cpu {__version__}")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    file = parser.add_mutually_exclusive_group()
    file.add_argument(
        "--config", type=Path, metavar="PATH", help="your defaults (see llama-cpu config)"
    )
    file.add_argument("--no_config", action="store_true", help="without your defaults")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= LARGEST_MIB):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number up to {LARGEST_MIB}")
    return int(text)


def _thread_count(text: str) -> int:
    number = _positive(text)
    if number > 1024:  # some thousands more, and the threads' library crashes
        raise argparse.ArgumentTypeError(f"{text} is more than 1024")
    return number


def _model_parser(prog: str, description: str) -> argparse.ArgumentParser:
    return _Parser(
        prog=prog,
        description=description,
        epilog=_FILES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def chat_parser(prog: str) -> argparse.ArgumentParser:
    from llama_cpu.history_command import add_history_argument

    parser = _model_parser(prog, "Chat with a LLaMA model on the CPU, in the terminal.")
    parser.add_argument(
        "--plain", action="store_true", help="no app, as in a pipe: also for screen readers"
    )
    history = parser.add_argument_group("conversations")
    where = history.add_mutually_exclusive_group()
    add_history_argument(where)
    where.add_argument(
        "--no_history", action="store_true", help="keep nothing of this chat on the disk"
    )
    history.add_argument(
        "--continue",
        dest="continue_latest",
        action="store_true",
        help="go on with the latest conversation",
    )
    history.add_argument(
        "--kv_file_mib",
        type=_size,
        default=KV_FILE_MIB,
        metavar="N",
        help="MiB of a conversation's KV cache that are kept on the disk when you leave it, so "
        f"that it need not be computed again (default {KV_FILE_MIB}; 0: none)",
    )
    history.add_argument(
        "--kv_files_mib",
        type=_size,
        default=KV_FILES_MIB,
        metavar="N",
        help=f"MiB of all of these files together, the oldest go first (default {KV_FILES_MIB})",
    )
    add_model_arguments(parser)
    return parser


def complete_parser(prog: str) -> argparse.ArgumentParser:
    parser = _model_parser(
        prog, "Complete one prompt: the text to standard output, figures to standard error."
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the text to complete; - reads it")
    parser.add_argument("--chat", action="store_true", help="ask it as a question in a chat")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_model_arguments(parser)
    return parser


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
    from llama_cpu.merge_command import add_merge_arguments, run_merge

    parser = _Parser(
        prog=prog,
        description="Join the shards of a LLaMA checkpoint into one file, in little memory.",
    )
    add_merge_arguments(parser)
    args = parser.parse_args(argv)
    return run_reporting_errors(lambda: run_merge(args), args.debug)


def history_main(argv: Sequence[str] | None = None, prog: str = "llama-cpu history") -> int:
    """``llama-cpu history list|show|export|import|delete|caches|search ...``"""
    from llama_cpu.history_command import add_history_commands, run_history

    parser = _Parser(prog=prog, description="The conversations that the chat has kept.")
    add_history_commands(parser)
    args = parser.parse_args(argv)
    return run_reporting_errors(
        lambda: run_history(args, read_config().values.get("history")), args.debug
    )


def config_main(argv: Sequence[str] | None = None, prog: str = "llama-cpu config") -> int:
    """``llama-cpu config``"""
    parser = _Parser(prog=prog, description="All settings with their values, as a config.toml.")
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
    parser = _Parser(prog="llama-cpu", description="LLaMA models on the CPU.")
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
    from llama_cpu.chat.open_session import open_record, session_opener
    from llama_cpu.loading import plan_from_arguments
    from llama_cpu.model_finder import find_models
    from llama_cpu.tui.app import run_app
    from llama_cpu.tui.model_screen import ModelSource

    plan = plan_from_arguments(args)
    folders = config.values.get("model_folders", [])
    with open_record(args) as record:
        open_session = session_opener(plan, args, record)
        choose = model_chooser(args, plan, record)
        models = ModelSource(lambda: find_models(folders), choose)
        return run_app(plan, open_session, args.debug, preferences, models)


def _plain_chat(args: argparse.Namespace, config: UserConfig) -> int:
    from llama_cpu.chat.open_session import open_record
    from llama_cpu.loading import plan_from_arguments
    from llama_cpu.plain_chat import run_plain_chat

    plan = plan_from_arguments(args)
    with open_record(args) as record:
        return run_plain_chat(plan, args, record)


def _complete(args: argparse.Namespace, config: UserConfig) -> int:
    from llama_cpu.complete import run_complete
    from llama_cpu.loading import plan_from_arguments

    asked = any(getattr(args, name) != config.values.get(name) for name in ("system", "template"))
    if asked and not args.chat:
        print("Note: --system and --template have no effect without --chat.", file=sys.stderr)
    return run_complete(plan_from_arguments(args), args)


def _config(args: argparse.Namespace) -> int:
    from llama_cpu.settings import Settings
    from llama_cpu.tui.keys import actions, keys_of
    from llama_cpu.tui.preferences import preferences_from
    from llama_cpu.user_config import ENTRIES, sample

    preferences = preferences_from(read_config(args.config, args.no_config))
    defaults = {name: getattr(entry, "default", None) for name, entry in ENTRIES.items()}
    keys = {
        name: (keys_of(name, preferences.keymap), each.tooltip or each.description)
        for name, each in actions().items()
    }
    print(sample(preferences.config, defaults | Settings().as_dict(), keys), end="")
    return 0
