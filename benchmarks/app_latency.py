"""Measure the latency of the app during generation, and how much the app slows generation down.

The program runs in a pseudo-terminal with the demo model. While it generates a long answer, letters
are typed, and the time from each key press to the letter on the screen is measured. Then the speed
of generation in the app is compared with that of ``example_cpu.py``, in turn, with the same prompt
and greedy sampling. Conversations are stored in a temporary folder. With ``--messages N`` the
letters are typed in a conversation that already has N messages, and the time to open it from the
list is measured as well.

    python -m benchmarks.app_latency
"""

import argparse
import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from llama_cpu.history.rows import State
from llama_cpu.history.store import History

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Write a very long story about a fox who travels around the world."
FIRST_LETTER = 0x10D0  # Georgian letters, which do not occur in answers to this question
LETTERS = 33
ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
SPEED = re.compile(r"Speed +([0-9.]+) tok/s")
START_SECONDS = 120
COLUMNS, ROWS = 120, 36
ANSWER = "\n\n".join(
    ["The fox **looked** at the snow and thought of the geese, " * 6, "- one\n- two\n- three"] * 4
)
ANSWER_SECONDS = 600


class Terminal:
    """The program in a pseudo-terminal, with its output since the last ``forget``."""

    def __init__(self, arguments: list[str], state: Path) -> None:
        """``state``: the folder for the app's state, prepared so that no welcome is shown."""
        (state / "llama_cpu").mkdir()
        (state / "llama_cpu" / "welcomed").touch()
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.environ["XDG_STATE_HOME"] = str(state)
            os.execv(sys.executable, [sys.executable, *arguments])
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._output = bytearray()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def read(self, seconds: float) -> None:
        """Wait for output of the program for at most ``seconds``, and read it."""
        if select.select([self._fd], [], [], max(0.0, seconds))[0]:
            self._output += os.read(self._fd, 1 << 16)

    def wait_for(self, text: str, seconds: float) -> float:
        """Wait until the text appears in the output, and return the seconds that this took."""
        start = time.perf_counter()
        wanted = text.encode()
        while wanted not in self._output:
            if time.perf_counter() - start > seconds:
                raise SystemExit(f"{text!r} did not appear within {seconds} s")
            self.read(seconds)
        return time.perf_counter() - start

    def forget(self) -> None:
        """Discard the output so far."""
        self._output.clear()

    def text(self) -> str:
        """Return the output without escape sequences."""
        return ESCAPE_SEQUENCE.sub("", self._output.decode(errors="replace"))

    def memory(self) -> int:
        """Return the peak resident memory of the program in bytes."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])

    def close(self) -> None:
        """Quit the program."""
        self.type("\x11")  # Ctrl+Q
        deadline = time.monotonic() + 20
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            try:
                self.read(0.1)
            except OSError:  # the program has closed its side
                time.sleep(0.05)
        os.close(self._fd)


@dataclass
class AppRun:
    speed: float  # tokens per second of one answer
    delays: list[float]  # seconds from key press to screen of the letters typed meanwhile
    memory: int  # peak resident memory in bytes


def run_app(tokens: int, letters: int, messages: int = 0) -> AppRun:
    """Generate one answer in the app."""
    words = ["example_chat.py", "--temperature", "0", "--max_gen_len", str(tokens)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        if messages:
            make_conversation(path, messages)
        words += ["--no_config", "--kv_file_mib", "0", "--history", str(path)]
        return run_in_terminal(Terminal(words, Path(folder)), letters, messages)


def make_conversation(path: Path, messages: int) -> None:
    """Store a conversation of ``messages`` messages; the answers have 1,300 characters each."""
    with History(path) as history, history.together():
        conversation, parent = history.create(), None
        for number in range(0, messages, 2):
            question = history.add_message(
                conversation.id, parent, "user", f"Question {number}: {ANSWER[:100]}"
            )
            answer = history.begin_answer(conversation.id, question.id, "a model")
            text = f"{ANSWER}\n\nEnd of answer {number}."
            history.save_answer(answer.id, text, [], state=State.COMPLETE)
            parent = answer.id


def open_conversation(terminal: Terminal, messages: int) -> float:
    """Open the only conversation from the list, and return the seconds until its end is shown."""
    terminal.type("\x02")  # Ctrl+B
    terminal.wait_for("Duplicate", 10)  # in the footer
    time.sleep(1)
    terminal.type("\r")
    return terminal.wait_for(f"of answer {messages - 2}.", 60)


def run_in_terminal(terminal: Terminal, letters: int, messages: int) -> AppRun:
    """Measure one answer as ``run_app`` does, in a started program, and quit the program."""
    try:
        terminal.wait_for("palette", START_SECONDS)  # in the footer
        time.sleep(1)
        if messages:
            seconds = open_conversation(terminal, messages)
            print(f"a conversation of {messages} messages opens in {seconds * 1000:.0f} ms")
        terminal.type(QUESTION + "\r")
        terminal.wait_for("is reading", START_SECONDS)
        delays = [type_letter(terminal, number) for number in range(letters)]
        terminal.wait_for("its longest", ANSWER_SECONDS)
        terminal.read(1)
        terminal.read(1)
        speed = float(SPEED.findall(terminal.text())[-1])
        return AppRun(speed, delays, terminal.memory())
    finally:
        terminal.close()


def type_letter(terminal: Terminal, number: int) -> float:
    """Press one key after a pause, and return the seconds until it is on the screen."""
    pause_until = time.perf_counter() + random.uniform(0.1, 0.3)
    while (left := pause_until - time.perf_counter()) > 0:
        terminal.read(left)
    letter = chr(FIRST_LETTER + number % LETTERS)
    if number >= LETTERS:
        terminal.type("\x15")  # Ctrl+U deletes the line, which already contains this letter
        terminal.read(0.1)
    terminal.type(letter)
    return terminal.wait_for(letter, 10)


def run_cli(tokens: int) -> tuple[float, int]:
    """Generate the same answer without the app; return tokens per second and peak memory."""
    command = [sys.executable, "example_cpu.py", "--chat", "--json", "--temperature", "0"]
    command += ["--max_gen_len", str(tokens), QUESTION]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("example_cpu.py failed")
        output.seek(0)
        seconds = json.load(output)["token_seconds"][1:]
    return len(seconds) / sum(seconds), 1024 * usage.ru_maxrss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=600, help="length of each answer")
    parser.add_argument(
        "--messages", type=int, default=0, help="number of messages already in the conversation"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of comparisons of app and command line"
    )
    arguments = parser.parse_args()
    os.chdir(ROOT)

    print(f"processor use before the start: {psutil.cpu_percent(1):.0f}% (quiet is best)")
    run = run_app(arguments.tokens, LETTERS, arguments.messages)
    delays = sorted(run.delays)
    p95 = delays[-(-95 * len(delays) // 100) - 1]
    print(f"key to screen, {len(delays)} letters during generation at {run.speed:.1f} tok/s:")
    print(f"  p50 {statistics.median(delays) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")
    if arguments.rounds:
        compare(arguments.rounds, arguments.tokens)


def compare(rounds: int, tokens: int) -> None:
    """Compare speed and memory with and without the app, in pairs, because machines drift."""
    ratios, more = [], []
    for _ in range(rounds):
        app = run_app(tokens, letters=0)
        speed, memory = run_cli(tokens)
        ratios.append(app.speed / speed)
        more.append(app.memory - memory)
        print(
            f"  app {app.speed:.1f} tok/s, {app.memory / 1e6:.0f} MB; "
            f"example_cpu.py {speed:.1f} tok/s, {memory / 1e6:.0f} MB"
        )
    print(f"median of the pairs: {statistics.median(ratios):.3f} times the speed in the app,")
    print(f"with {statistics.median(more) / 1e6:.0f} MB more memory")


if __name__ == "__main__":
    main()
