"""``llama-cpu chat``: the app in a terminal, a line-by-line chat otherwise."""

import argparse
import sys
from dataclasses import replace
from importlib.util import find_spec

from llama_cpu.cli.options import (
    add_answer_arguments,
    add_history_argument,
    add_model_arguments,
    mebibytes,
)
from llama_cpu.settings.generation_settings import RANGES, SETTINGS, require_allowed
from llama_cpu.settings.user_config import KV_FILE_MIB, KV_FILES_MIB
from llama_cpu.system.paths import require_exists, state_folder
from llama_cpu.system.standard_input import require_text


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--plain",
        action="store_true",
        help="chat line by line without the app, as in a pipe; also for screen readers",
    )
    history = parser.add_argument_group("conversations")
    where = history.add_mutually_exclusive_group()
    add_history_argument(where)
    where.add_argument(
        "--no_history", action="store_true", help="do not save anything of this chat to disk"
    )
    history.add_argument(
        "--continue",
        dest="continue_latest",
        action="store_true",
        help="continue the latest conversation",
    )
    history.add_argument(
        "--kv_file_mib",
        type=mebibytes,
        default=KV_FILE_MIB,
        metavar="N",
        help="maximum size in MiB of the KV cache file of one conversation, which saves computing "
        f"it again when the conversation is reopened (default {KV_FILE_MIB}; 0: no file)",
    )
    history.add_argument(
        "--kv_files_mib",
        type=mebibytes,
        default=KV_FILES_MIB,
        metavar="N",
        help="maximum size in MiB of all KV cache files together; the oldest are removed first "
        f"(default {KV_FILES_MIB})",
    )
    add_model_arguments(parser)
    add_answer_arguments(parser)


def run_chat(args: argparse.Namespace) -> int:
    """Run the app or, without a terminal or with --plain, the plain chat. Returns the exit code."""
    # Textual draws on standard error, so that must be a terminal as well.
    is_terminal = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return _plain_chat(args) if args.plain or not is_terminal else _chat_in_app(args)


def _chat_in_app(args: argparse.Namespace) -> int:
    from llama_cpu.loading.demo_model import fetch_demo_model, is_demo_wanted
    from llama_cpu.tui.preferences import preferences_from

    config = args.user_config
    preferences = preferences_from(config)  # checked before a model may be downloaded
    preferences = replace(preferences, welcome_marker=state_folder() / "welcomed")
    _check_options(args)
    if find_spec("torch") is None:  # it is not imported before the app is on the screen
        raise ModuleNotFoundError(name="torch")
    is_demo = is_demo_wanted(args.ckpt_dir)
    if is_demo:
        fetch_demo_model()  # shows its own progress, if it is not there yet
    from llama_cpu.chat.models import Models, find_models
    from llama_cpu.chat.open_conversation import open_conversation
    from llama_cpu.tui.app import ChatApp, run_app
    from llama_cpu.tui.model_source import ModelSource

    folders = config.values.get("model_folders", [])
    with open_conversation(args) as conversation:
        models = Models(args, conversation)
        source = ModelSource(lambda: find_models(folders), models.choose, args.kv_int8)
        app = ChatApp(conversation, models.first, preferences, source, is_demo)
        return run_app(app, args.debug)


def _check_options(args: argparse.Namespace) -> None:
    """Raise UserError for what no model allows, before the app has the screen."""
    for name in (*RANGES, "seed"):
        if (value := getattr(args, name)) is not None:
            require_allowed(name, value, SETTINGS[name], "--")
    require_text(args.system or "", "--system")
    for path in filter(None, (args.ckpt_dir, args.draft_ckpt_dir)):
        require_exists(path)


def _plain_chat(args: argparse.Namespace) -> int:
    if sys.stderr.isatty():  # importing PyTorch takes seconds
        print("Loading the model...", file=sys.stderr)
    from llama_cpu.chat.open_conversation import open_conversation
    from llama_cpu.cli.plain_chat import run_plain_chat
    from llama_cpu.loading.plan import plan_from_arguments

    plan = plan_from_arguments(args)
    with open_conversation(args) as conversation:
        return run_plain_chat(plan, args, conversation)
