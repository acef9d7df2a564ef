"""How the app feels while the model writes, and what the app costs the model.

Starts the real program in a pseudo-terminal with the demo model, lets it write a long answer and
types letters meanwhile: the time from a key press to the letter's arrival on the screen. Then the
speed of generation in the app beside that of ``example_cpu.py``, same prompt, greedy, alternating.
Conversations are kept in a folder that is gone afterwards. With ``--messages N`` the letters are
typed in a conversation that has N messages already, and it is timed how soon the list opens it.

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
FIRST_LETTER = 0x10D0  # Georgian: in no answer to this question, so that each is seen once
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
    """The program in a pseudo-terminal, and all that it wrote since the last ``forget``."""

    def __init__(self, arguments: list[str], state: Path) -> None:
        """``state``: the folder in which the app remembers that it was there before."""
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
        """Take in what the program writes, for at most this long or until it has written."""
        if select.select([self._fd], [], [], max(0.0, seconds))[0]:
            self._output += os.read(self._fd, 1 << 16)

    def wait_for(self, text: str, seconds: float) -> float:
        """Seconds until the text was written."""
        start = time.perf_counter()
        wanted = text.encode()
        while wanted not in self._output:
            if time.perf_counter() - start > seconds:
                raise SystemExit(f"{text!r} did not appear within {seconds} s")
            self.read(seconds)
        return time.perf_counter() - start

    def forget(self) -> None:
        """Begin with an empty output."""
        self._output.clear()

    def text(self) -> str:
        """The output without escape sequences."""
        return ESCAPE_SEQUENCE.sub("", self._output.decode(errors="replace"))

    def memory(self) -> int:
        """Resident bytes of the program when that was most."""
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
    speed: float  # tokens a second of one answer
    delays: list[float]  # of the letters typed meanwhile, in seconds
    memory: int  # resident bytes at the most


def run_app(tokens: int, letters: int, messages: int = 0) -> AppRun:
    """One answer in the app."""
    words = ["example_chat.py", "--temperature", "0", "--max_gen_len", str(tokens)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        if messages:
            make_conversation(path, messages)
        words += ["--no_config", "--kv_file_mib", "0", "--history", str(path)]
        return run_in_terminal(Terminal(words, Path(folder)), letters, messages)


def make_conversation(path: Path, messages: int) -> None:
    """Half of them questions, half answers of 1,300 characters."""
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
    """Seconds from Enter in the list until the end of its only conversation is on the screen."""
    terminal.type("\x02")  # Ctrl+B
    terminal.wait_for("Duplicate", 10)  # in the footer
    time.sleep(1)
    terminal.type("\r")
    return terminal.wait_for(f"of answer {messages - 2}.", 60)


def run_in_terminal(terminal: Terminal, letters: int, messages: int) -> AppRun:
    """As run_app; quits the program."""
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
    """Press one key after a moment; seconds until it is on the screen."""
    pause_until = time.perf_counter() + random.uniform(0.1, 0.3)
    while (left := pause_until - time.perf_counter()) > 0:
        terminal.read(left)
    letter = chr(FIRST_LETTER + number % LETTERS)
    if number >= LETTERS:
        terminal.type("\x15")  # Ctrl+U: the line is full of letters seen before
        terminal.read(0.1)
    terminal.type(letter)
    return terminal.wait_for(letter, 10)


def run_cli(tokens: int) -> tuple[float, int]:
    """Tokens a second of the same answer without the app, and resident bytes at the most."""
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
    parser.add_argument("--messages", type=int, default=0, help="in the conversation already")
    parser.add_argument("--rounds", type=int, default=3, help="app and command line, each")
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
    """Speed and memory in the app and without, in turn; ratios of each pair, as machines drift."""
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
    print(f"median of the pairs: {statistics.median(ratios):.3f} of the speed")
    print(f"and {statistics.median(more) / 1e6:.0f} MB more memory")


if __name__ == "__main__":
    main()
