"""Measure the time to the first token after a stored conversation is opened again.

    python -m benchmarks.reopening                     # the model of the chat
    python -m benchmarks.reopening --ckpt_dir PATH --precision bf16 --tokens 1500 --rounds 5

A long message, from a text of benchmarks/text, is answered, and the conversation is left. Then the
same short question is asked, alternately with and without the stored KV cache. The time is measured
from opening the conversation to the first token, without the loading of the model. On Linux the
file is dropped from the system's cache first, so that it is read from the disk.
"""
# ruff: noqa: E402

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from threading import Event as Flag

from llama_cpu.system.file_io import forget_cached
from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()  # before torch is imported

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.open_session import cache_keeper
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Prefill, Token
from llama_cpu.generation.sampling import Sampling
from llama_cpu.history.store import History
from llama_cpu.kv_store.fingerprint import fingerprint
from llama_cpu.kv_store.keeper import ignore_progress
from llama_cpu.kv_store.store import KVStore
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import plan_loading
from llama_cpu.system.text import human_bytes
from llama_cpu.weights.formats import FORMATS, format_of

TEXT = Path(__file__).parent / "text" / "opticks.txt"
LIMIT = 1 << 40


class Reopening:
    """One conversation that is opened repeatedly."""

    def __init__(self, loaded: LoadedModel, weights: str, folder: Path) -> None:
        self._loaded, self._weights = loaded, weights
        self._history = History(folder / "history.db")
        self._store = KVStore(self._history, LIMIT, LIMIT, folder / "kv")

    def begin(self, tokens: int) -> float:
        """Create a conversation with a message of ``tokens`` tokens.

        Returns the seconds that it takes to store the KV cache when the conversation is left.
        """
        session = self._session(Conversation(self._history))
        tokenizer = self._loaded.tokenizer
        ids = tokenizer.encode(TEXT.read_text(encoding="utf-8"), specials=False)
        session.add_user(tokenizer.decode(ids[:tokens]))
        for _ in session.answer(Flag()):
            pass
        start = time.perf_counter()
        session.save_cache(ignore_progress, Flag())
        seconds = time.perf_counter() - start
        assert session.conversation.stored_id
        self._conversation_id = session.conversation.stored_id
        session.close()
        return seconds

    @property
    def file(self) -> Path:
        return self._store.path(self._conversation_id)

    def ask(self, with_file: bool) -> tuple[float, Prefill]:
        """Open the conversation and ask a question.

        Returns the seconds to the first token, and the last Prefill event, which tells how many
        tokens were reused.
        """
        self._loaded.cache.truncate(0)
        with self.file.open("r+b", buffering=0) as file:
            forget_cached(file)
        session = self._session(Conversation(self._history), with_file)
        session.count_tokens("warm")
        start = time.perf_counter()
        session.conversation.open(self._conversation_id)
        session.prepare_cache(ignore_progress, Flag())
        session.add_user("What is this text about?")
        for event in session.answer(stop := Flag()):
            if isinstance(event, Prefill):
                prefill = event
            elif isinstance(event, Token) and not stop.is_set():
                seconds = time.perf_counter() - start
                stop.set()
        session.conversation.delete_last_turn()
        session.close()
        return seconds, prefill

    def _session(self, conversation: Conversation, with_file: bool = True) -> ChatSession:
        loaded = self._loaded
        keeper = cache_keeper(self._store, loaded, self._weights)
        template = choose_template(None, loaded.tokenizer, loaded.plan.name)
        greedy = Sampling(temperature=0.0)
        return ChatSession(
            loaded,
            template,
            greedy,
            32,
            conversation=conversation,
            keeper=keeper if with_file else None,
        )

    def close(self) -> None:
        self._history.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt_dir", type=Path, metavar="PATH")
    parser.add_argument("--precision", choices=[each.label for each in FORMATS], default="float32")
    parser.add_argument("--tokens", type=int, default=1500, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    args = parser.parse_args()
    try:
        plan = plan_loading(args.ckpt_dir, precision=format_of(args.precision))
        start = time.perf_counter()
        weights = fingerprint(plan.checkpoint)
        print(f"fingerprint: {time.perf_counter() - start:.3f} s")
        loaded = load(plan, lambda done, total, name: None, Flag())
    except UserError as error:
        sys.exit(f"Error: {error}")
    with tempfile.TemporaryDirectory() as folder:
        run(Reopening(loaded, weights, Path(folder)), args.tokens, args.rounds)


def run(reopening: Reopening, tokens: int, rounds: int) -> None:
    seconds = reopening.begin(tokens)
    size = reopening.file.stat().st_size
    print(f"leaving: {seconds:.3f} s for {human_bytes(size)}")
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for with_file, figures in times.items():
            waited, prefill = reopening.ask(with_file)
            figures.append(waited)
            name = "with" if with_file else "without"
            print(f"{name:8} {waited:7.3f} s  reused {prefill.reused}+{prefill.total}")
    reopening.close()
    stored, anew = (statistics.median(each) for each in times.values())
    print(f"medians: with {stored:.3f} s, without {anew:.3f} s, {anew / stored:.1f} times as long")


if __name__ == "__main__":
    main()
