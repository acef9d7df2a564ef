"""``llama-cpu complete``: one prompt, one answer, and its time and memory."""

import argparse
import json
import sys
from collections.abc import Iterator
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

from llama_cpu.cli.options import add_answer_arguments, add_model_arguments
from llama_cpu.errors import UserError
from llama_cpu.generation import repetition
from llama_cpu.generation.events import Event, Finished, StopReason, Token
from llama_cpu.generation.timings import Timings
from llama_cpu.system.memory import memory_report
from llama_cpu.system.standard_input import read_all, require_text
from llama_cpu.system.text import human_bytes, printable

if TYPE_CHECKING:  # it imports PyTorch, which --help does not need
    from llama_cpu.chat.session import ChatSession


def add_complete_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "prompt", metavar="PROMPT", help="text to complete; - reads it from standard input"
    )
    parser.add_argument(
        "--chat", action="store_true", help="ask the prompt as a question, using the chat template"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_model_arguments(parser)
    add_answer_arguments(parser)


def run_complete(args: argparse.Namespace) -> int:
    """Print the answer while it is generated, or one JSON object. Returns the exit code."""
    from llama_cpu.chat.open_session import session_opener
    from llama_cpu.cli.progress import load_with_progress
    from llama_cpu.loading.demo_model import demo_notice
    from llama_cpu.loading.plan import plan_from_arguments

    config = args.user_config
    asked = any(getattr(args, name) != config.values.get(name) for name in ("system", "template"))
    if asked and not args.chat:
        print("Note: --system and --template have no effect without --chat.", file=sys.stderr)
    plan = plan_from_arguments(args)
    if plan.is_demo:
        print(demo_notice(), file=sys.stderr)
    prompt = read_all() if args.prompt == "-" else require_text(args.prompt, "The prompt")
    session = load_with_progress(plan, session_opener(plan, args))
    try:
        return _run(session, prompt, args)
    finally:
        session.close()


def _run(session: "ChatSession", prompt: str, args: argparse.Namespace) -> int:
    timings = Timings()
    token_ids: list[int] = []
    text = ""
    finished = Finished(StopReason.STOPPED)
    try:
        for event in _events(session, prompt, args):
            timings.observe(event)
            if isinstance(event, Token):
                token_ids.append(event.id)
            if isinstance(event, (Token, Finished)):
                text += event.text
                if not args.json:
                    print(printable(event.text), end="", flush=True)
            if isinstance(event, Finished):
                finished = event
    except KeyboardInterrupt:  # print the figures of the partial answer
        pass
    if args.json:
        print(json.dumps(_as_object(session, timings, token_ids, text, finished.reason)))
    else:
        print(flush=True)
    if finished.reason is StopReason.FAILED:
        raise UserError(finished.message)
    if not args.json:
        if finished.reason is StopReason.REPETITION:
            print(f"[{repetition.ENDED}]", file=sys.stderr)
        _print_figures(session, timings)
    return 130 if finished.reason is StopReason.STOPPED else 0


def _events(session: "ChatSession", prompt: str, args: argparse.Namespace) -> Iterator[Event]:
    if args.chat:
        session.add_user(prompt)
        return session.answer(Flag())
    return session.complete(prompt, Flag())


def _as_object(
    session: "ChatSession", timings: Timings, token_ids: list[int], text: str, reason: StopReason
) -> dict[str, Any]:
    return {
        "text": text,
        "tokens": token_ids,
        "prompt_tokens": timings.reused_tokens + timings.prompt_tokens,
        "prefill_seconds": timings.prefill_seconds,
        "token_seconds": timings.token_seconds,
        "tokens_per_pass": timings.tokens_per_pass,
        "peak_rss_bytes": memory_report().peak,
        "weights_bytes": session.weights_bytes,
        "kv_cache_bytes": session.kv_cache_bytes,
        "stop_reason": reason.value,
    }


def _print_figures(session: "ChatSession", timings: Timings) -> None:
    def say(line: str) -> None:
        print(line, file=sys.stderr)

    say(
        f"prompt: {timings.prompt_tokens} tokens in {timings.prefill_seconds:.2f} s, "
        f"{timings.prefill_rate:.1f} tokens/s"
    )
    per_pass = timings.tokens_per_pass or 1.0
    if timings.median is not None and timings.percentile_95 is not None:
        say(
            f"answer: {len(timings.token_seconds)} tokens, {timings.decode_rate:.1f} tokens/s, "
            f"{1000 * timings.median:.1f} ms a token (median), "
            f"{1000 * timings.percentile_95:.1f} ms (95th percentile)"
            + (f", {per_pass:.2f} tokens a pass" if per_pass > 1 else "")
        )
    memory = memory_report()
    say(
        f"memory: {human_bytes(memory.peak)} at the peak; weights "
        f"{human_bytes(session.weights_bytes)} ({session.precision}), KV cache "
        f"{human_bytes(session.kv_cache_used_bytes)} of {human_bytes(session.kv_cache_bytes)} "
        f"({session.kv_cache_type})"
    )
