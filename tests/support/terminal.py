"""A program in a pseudo-terminal, as a person has it before them."""

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
PATIENCE = 120  # seconds until a test that waits for something gives up


class Terminal:
    """Runs a script of the project; ``written`` is what it wrote, with the times."""

    def __init__(self, *words: str, columns: int = 80, rows: int = 24) -> None:
        import fcntl
        import pty
        import termios

        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        )
        os.close(theirs)
        self.written: list[tuple[float, bytes]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:  # Linux: the other side is closed
                return
            if not data:
                return
            self.written.append((time.monotonic(), data))

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def text(self, until: float = float("inf")) -> str:
        """All that was written until a moment, without escape sequences."""
        data = b"".join(data for when, data in list(self.written) if when <= until)
        return ESCAPE_SEQUENCE.sub("", data.decode(errors="replace"))

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while words not in self.text():
            assert self._process.poll() is None, f"it has ended:\n{self.text()[-2000:]}"
            assert time.monotonic() < deadline, f"no {words!r} in:\n{self.text()[-2000:]}"
            time.sleep(0.02)

    def wait(self) -> int:
        """Its exit code."""
        code = self._process.wait(PATIENCE)
        self._close()
        return code

    def kill(self) -> float:
        """End it at once; returns when."""
        self._process.send_signal(signal.SIGKILL)
        now = time.monotonic()
        self._process.wait(PATIENCE)
        self._close()
        return now

    def _close(self) -> None:
        self._reader.join(PATIENCE)
        os.close(self._fd)
