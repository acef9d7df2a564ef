"""The chat without the app: line by line, for pipes and scripts."""

import argparse
import sys
from threading import Event as Flag

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.open_session import session_opener
from llama_cpu.chat.session import ChatSession
from llama_cpu.cli.progress import load_with_progress
from llama_cpu.errors import UserError
from llama_cpu.generation import repetition
from llama_cpu.generation.events import Finished, StopReason, Token, TurnsDropped
from llama_cpu.history.rows import Gone
from llama_cpu.kv_store.keeper import ignore_progress
from llama_cpu.loading.demo_model import demo_notice
from llama_cpu.loading.plan import LoadPlan
from llama_cpu.system.standard_input import read_line
from llama_cpu.system.text import printable

LEAVING = "/help lists the commands; /bye or Ctrl+D leaves; Ctrl+C stops an answer."
HELP = """\
  /new, /clear  begin a new conversation
  /help, /?     show this list
  /bye, /quit   leave; so does Ctrl+D
Two slashes begin a message with a command's name: //help. All other commands need the app."""
OTHER_NAMES = {"clear": "new", "?": "help", "bye": "quit"}
NAMES = ("new", "help", "quit")
DELETED = (
    "This conversation was deleted in another window; its messages are saved again as a new one."
)


def run_plain_chat(plan: LoadPlan, args: argparse.Namespace, conversation: Conversation) -> int:
    """Read lines and print answers until the input ends.

    The conversation is saved as in the app. If a line cannot be answered, the reason is printed
    and the chat continues. Returns exit code 0 if all lines were answered, else 2.
    """
    session = load_with_progress(plan, session_opener(plan, args, conversation))
    if plan.is_demo:
        _note(demo_notice())
    if sys.stdin.isatty():
        _note(LEAVING)
    all_answered = True
    try:
        while (line := _read_line()) is not None:
            command = command_of(line)
            if command == "quit":
                break
            if command:
                _perform(command, session)
            elif problem := problem_of(line):
                _note(printable(problem))
                all_answered = False
            elif line.strip():
                all_answered &= _answer(session, as_message(line))
        session.save_cache(ignore_progress, Flag())
    finally:
        session.close()
    return 0 if all_answered else 2


def command_of(line: str) -> str:
    """The command that a line is, under its first name; "" for a message."""
    name = line.strip().removeprefix("/")
    is_command = line.startswith("/") and OTHER_NAMES.get(name, name) in NAMES
    return OTHER_NAMES.get(name, name) if is_command else ""


def problem_of(line: str) -> str:
    """Why a line is not sent: it is a command of the app, or one word like an unknown command."""
    name, *others = line[1:].split() or [""]
    if not name or not line.startswith(f"/{name}") or command_of(line):
        return ""
    from llama_cpu.tui.actions import COMMANDS  # imports Textual, which most chats do not need

    if name in COMMANDS and name not in NAMES:
        return f"/{name} works in the app only; //{name} begins a message."
    if others or not name.isidentifier():
        return ""
    return f"Unknown command /{name}; /help lists the commands, //{name} begins a message."


def as_message(line: str) -> str:
    """The message of a line, without the extra slash before a command's name."""
    is_escaped = line.startswith("//") and (command_of(line[1:]) or problem_of(line[1:]))
    return line[1:] if is_escaped else line


def _perform(command: str, session: ChatSession) -> None:
    if command == "help":
        print(HELP, file=sys.stderr)
        return
    session.conversation.clear()
    _note("A new conversation.")


def _read_line() -> str | None:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return read_line()


def _answer(session: ChatSession, line: str) -> bool:
    """Answer one line and return whether that was possible.

    Ctrl+C in a terminal stops the answer, not the chat.
    """
    _add_user(session, line)
    problem, is_loop = "", False
    try:
        for event in session.answer(Flag()):
            if isinstance(event, TurnsDropped):
                _note(f"The {event.count} oldest messages no longer fit and were left out.")
            if isinstance(event, (Token, Finished)):
                print(printable(event.text), end="", flush=True)
            if isinstance(event, Finished):
                problem, is_loop = event.message, event.reason is StopReason.REPETITION
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    except UserError as error:
        session.conversation.take_back()
        problem = str(error)
    print(flush=True)
    _report_trouble(session)
    if is_loop:
        _note(repetition.ENDED)
    if problem:
        print(f"Error: {printable(problem)}", file=sys.stderr)
    return not problem


def _add_user(session: ChatSession, line: str) -> None:
    try:
        session.add_user(line)
    except Gone:
        _note(DELETED)
        session.add_user(line)
    _report_trouble(session)


def _report_trouble(session: ChatSession) -> None:
    """If the conversation cannot be saved, print the reason."""
    if trouble := session.conversation.take_trouble():
        _note(printable(trouble))


def _note(text: str) -> None:
    print(f"[{text}]", file=sys.stderr)
