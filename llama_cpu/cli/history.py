"""``llama-cpu history``: saved conversations, for scripts and people."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_cpu.cli.options import add_debug_argument, add_history_argument
from llama_cpu.errors import UserError
from llama_cpu.history.check import check, save
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

Verb = Callable[[argparse.Namespace, History], int]  # returns the exit code


def add_history_commands(parser: argparse.ArgumentParser) -> None:
    """Add one parser for each verb; ``args.verb`` is its function."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, work: Verb, about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        add_history_argument(added)
        add_debug_argument(added)
        added.set_defaults(verb=work, may_create=name == "import")
        return added

    def verb_on_one(name: str, work: Verb, about: str) -> argparse.ArgumentParser:
        added = verb(name, work, about)
        added.add_argument("id", type=_id, metavar="ID", help="the conversation, as in 'list'")
        return added

    list_ = verb("list", _list, "List conversations, newest first: ID, time, messages, title.")
    list_.add_argument("--json", action="store_true", help="print a JSON array instead")
    verb_on_one("show", _show, "Print the messages of a conversation.")
    export = verb_on_one(
        "export", _export, "Print a conversation as Markdown, or with all branches as JSON."
    )
    export.add_argument(
        "--format",
        choices=("markdown", "json"),
        default="markdown",
        help="json can be imported again (default: markdown)",
    )
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="write to FILE (default: standard output)"
    )
    export.add_argument("--force", action="store_true", help="replace FILE if it exists")
    import_ = verb("import", _import, "Add a conversation exported as JSON, and print its ID.")
    import_.add_argument("file", type=Path, metavar="FILE", help="the exported JSON file")
    delete = verb_on_one("delete", _delete, "Delete a conversation, after asking.")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    caches = verb("caches", _caches, "List KV cache files on disk: ID, size, time.")
    caches.add_argument(
        "--clear", action="store_true", help="remove the KV cache files of all databases"
    )
    check = verb("check", _list, "Find damage in the database, and save what can still be read.")
    check.set_defaults(verb=None)
    search = verb("search", _search, "List matching conversations: ID, time, title, excerpt.")
    search.add_argument(
        "words",
        nargs="+",
        metavar="WORD",
        help="all words must occur; the last one may be incomplete",
    )


def run_history(args: argparse.Namespace) -> int:
    """Run one verb. Raises UserError.

    Returns exit code 0, or 1 if something was not deleted or the database is damaged.
    """
    if args.history and not args.may_create and not args.history.exists():
        raise UserError(f"{args.history} does not exist; name the right file with --history.")
    path = args.history or args.user_config.values.get("history") or history_path()
    verb: Verb | None = args.verb
    if verb is None:
        return _check(path)
    with History(path) as history:
        return verb(args, history)


def _check(path: Path) -> int:
    """Say what is wrong with the database, which need not be one that can be opened."""
    if not path.exists():
        raise UserError(f"{path} does not exist; there are no saved conversations to check.")
    checked = check(path)
    count = f"{len(checked.conversations)} conversations with {checked.message_count} messages"
    if not checked.faults:
        print(printable(f"{path}: {count}; nothing is damaged."))
        return 0
    for fault in checked.faults:
        print(printable(f"{path}: {fault}"))
    if not checked.conversations:
        raise UserError(f"{path}: no conversation can be read; put a backup in its place.")
    saved = save(checked, path)
    print(printable(f"Saved {count} to {saved}; {path} is unchanged."))
    print(printable("To use the saved ones, put that file in its place."))
    return 1


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # SQLite has 64 bits
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an ID; 'llama-cpu history list' shows them"
        )
    return int(text)


def _list(args: argparse.Namespace, history: History) -> int:
    conversations = history.conversations()
    if args.json:
        print(json.dumps([_as_object(each) for each in conversations], indent=1))
        return 0
    for each in conversations:
        title = f"{each.title} (damaged: {each.damage})" if each.damage else each.title
        _print_row(each.id, day_and_time(each.updated), each.message_count, title)
    return 0


def _as_object(conversation: StoredConversation) -> dict[str, Any]:
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
    notes += [f"damaged: {message.damage}"] if message.damage else []
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
            raise UserError(
                f"{args.output} exists already; name another file, or add --force to replace it."
            )
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
    """Remove all KV cache files. Returns exit code 1 if some could not be removed."""
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
        raise UserError(f"Conversation {conversation.id} would be deleted; add --yes to confirm.")
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
    """Print the values in one line, separated by tabs; tabs within a value become spaces."""
    print("\t".join(printable(" ".join(str(value).split())) for value in values))
