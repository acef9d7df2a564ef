"""``llama-cpu history``: the kept conversations, for scripts."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from llama_cpu.errors import UserError
from llama_cpu.history.rows import State, StoredConversation, StoredMessage
from llama_cpu.history.store import History
from llama_cpu.history.transfer import as_json, as_markdown, day_and_time, import_json
from llama_cpu.kv_store.index import (
    KVFileInfo,
    database_key,
    list_files,
    remove_file,
    remove_file_of,
)
from llama_cpu.system.atomic_files import write_text
from llama_cpu.system.paths import history_path, kv_folder
from llama_cpu.system.text import human_bytes, printable


def add_history_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--history",
        type=Path,
        metavar="PATH",
        help="the database of conversations (default: in your data folder)",
    )


def add_history_commands(parser: argparse.ArgumentParser) -> None:
    """One parser for each verb; ``args.verb`` is the function."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, work: Callable[[argparse.Namespace, History], int], about: str):
        added = verbs.add_parser(name, help=about, description=about)
        add_history_argument(added)
        added.add_argument(
            "--debug", action="store_true", help="show where in the program an error came from"
        )
        added.set_defaults(verb=work, may_make=name == "import")
        return added

    list_ = verb("list", _list, "All conversations, the newest first: ID, time, messages, title.")
    list_.add_argument("--json", action="store_true", help="print a JSON array instead")
    show = verb("show", _show, "The messages of a conversation.")
    show.add_argument("id", type=_id, metavar="ID")
    export = verb("export", _export, "A conversation as Markdown, or with all branches as JSON.")
    export.add_argument("id", type=_id, metavar="ID")
    export.add_argument("--format", choices=("markdown", "json"), default="markdown")
    export.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    export.add_argument("--force", action="store_true", help="replace FILE if it is there")
    import_ = verb("import", _import, "Add a conversation that was exported as JSON; print its ID.")
    import_.add_argument("file", type=Path, metavar="FILE")
    delete = verb("delete", _delete, "Delete a conversation, after asking.")
    delete.add_argument("id", type=_id, metavar="ID")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    caches = verb("caches", _caches, "KV caches kept on the disk: ID, size, time.")
    caches.add_argument("--clear", action="store_true", help="remove them, of all databases")
    search = verb("search", _search, "Conversations with all of the words: ID, time, title, place.")
    search.add_argument("words", nargs="+", metavar="WORD", help="the last may be a beginning")


def run_history(args: argparse.Namespace, usual: Path | None = None) -> int:
    """Exit code 0, or 1 where something was not deleted. Raises UserError.

    ``usual``: the database where --history names none.
    """
    if args.history and not args.may_make and not args.history.exists():
        raise UserError(f"{args.history} is not there; name the right file with --history.")
    with History(args.history or usual or history_path()) as history:
        return args.verb(args, history)


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # SQLite has 64 bits
        raise argparse.ArgumentTypeError(f"{text!r} is not an ID; 'list' shows them")
    return int(text)


def _list(args: argparse.Namespace, history: History) -> int:
    conversations = history.conversations()
    if args.json:
        print(json.dumps([_as_object(each) for each in conversations], indent=1))
        return 0
    for each in conversations:
        _print_row(each.id, day_and_time(each.updated), each.message_count, each.title)
    return 0


def _as_object(conversation: StoredConversation) -> dict:
    values = asdict(conversation)
    return {key: values[key] for key in ("id", "title", "model", "created", "updated")} | {
        "messages": conversation.message_count
    }


def _show(args: argparse.Namespace, history: History) -> int:
    siblings = history.siblings(args.id)
    for number, message in enumerate(history.path(args.id)):
        if number:
            print()
        print(_heading(message, siblings.get(message.id, ())))
        print(printable(message.text))
    return 0


def _heading(message: StoredMessage, siblings: tuple[int, ...]) -> str:
    notes = [] if message.state is State.COMPLETE else [message.state.value]
    if message.id in siblings:
        notes.append(f"{siblings.index(message.id) + 1} of {len(siblings)}")
    return f"[{', '.join([message.role, *notes])}]"


def _export(args: argparse.Namespace, history: History) -> int:
    if args.format == "json":
        text = as_json(*history.tree(args.id))
    else:
        text = as_markdown(history.get(args.id), history.path(args.id))
    if args.output is None:
        print(text, end="")
    else:
        if args.output.exists() and not args.force:
            raise UserError(f"{args.output} is there already; name another, or add --force.")
        write_text(args.output, text, replace=args.force)
    return 0


def _import(args: argparse.Namespace, history: History) -> int:
    print(import_json(history, args.file).id)
    return 0


def _delete(args: argparse.Namespace, history: History) -> int:
    conversation = history.get(args.id)
    if not args.yes and not _may_delete(conversation):
        print("Nothing was deleted.")
        return 1
    history.delete(args.id)
    remove_file_of(history.file, args.id)
    return 0


def _caches(args: argparse.Namespace, history: History) -> int:
    assert history.file
    if args.clear:
        return _clear_caches()
    own = database_key(history.file)
    for file in list_files(kv_folder()):
        if file.database_key == own:
            _print_row(file.conversation_id, human_bytes(file.nbytes), day_and_time(file.changed))
    return 0


def _clear_caches() -> int:
    """Exit code 1 where some are still there."""
    files = list_files(kv_folder())
    removed = [file for file in files if remove_file(file.path)]
    left = [file for file in files if os.path.lexists(file.path)]
    said = f"Removed: {_count(removed)}."
    if left:
        said += f" Could not be removed: {_count(left)} in {kv_folder()}."
    print(printable(said))
    return 1 if left else 0


def _count(files: Sequence[KVFileInfo]) -> str:
    name = "file" if len(files) == 1 else "files"
    return f"{len(files)} {name}, {human_bytes(sum(file.nbytes for file in files))}"


def _may_delete(conversation: StoredConversation) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"Conversation {conversation.id} would be deleted; add --yes to do it.")
    question = f"Delete '{conversation.title}' ({conversation.message_count} messages)? [y/N] "
    try:
        return input(printable(question)).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl+D
        print()
        return False


def _search(args: argparse.Namespace, history: History) -> int:
    for conversation, found in history.search(" ".join(args.words)):
        updated = day_and_time(conversation.updated)
        _print_row(conversation.id, updated, conversation.title, found.snippet)
    return 0


def _print_row(*values: object) -> None:
    """One line, with a tab between the values and nowhere else."""
    print("\t".join(printable(" ".join(str(value).split())) for value in values))
