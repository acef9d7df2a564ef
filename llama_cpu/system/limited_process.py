"""A process that does what strangers ask for, within limits of time and memory.

The process is a module of this package. It limits its own memory, prints a line when it is ready,
and then answers each line of its standard input with another. What it prints to standard error,
such as the panic of a library, is discarded.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path


class LimitedProcess:
    """One such process, which the first question starts, and the first after it has died."""

    def __init__(self, module: str, seconds: float) -> None:
        """``seconds``: the time for one answer, after which the process is killed."""
        self._module = module
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process remembers earlier questions."""
        return self._process is not None and self._process.poll() is None

    def ask(self, question: str) -> str | None:
        """Return the answer; None if the process took too long or died, and has been ended."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(self._seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # it died during the write
            answer = ""
        finally:
            timer.cancel()
        if not answer.endswith("\n"):
            self.close()
            return None
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            # Modules are imported from where this process has them, never from the current
            # folder, which may be a downloaded model's with a json.py in it.
            paths = [str(Path(path).absolute()) for path in sys.path if path]
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                cwd=Path(__file__).parents[2],  # python -m looks there first
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"},
                # Ctrl+C in the terminal is for the chat, not for this process.
                start_new_session=True,
            )
            assert self._process.stdout is not None
            self._process.stdout.readline()  # "ready"; a cold disk takes long
        return self._process

    def close(self) -> None:
        """End the process; the next question starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()  # closes the pipes
            self._process = None
