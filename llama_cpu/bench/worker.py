"""Worker processes that measure beside the model: one JSON object per line, in and out.

A worker is started as ``python -m MODULE OPTIONS``. It answers with a description of itself, then
with one line for each line of input. It is idle while it waits. Standard library only.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], Any]


class WorkerFailed(Exception):
    """A worker could not start or could not answer. The message is one line."""


class Worker:
    """One worker process. ``about`` is its description of itself."""

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        """Start the module and wait for its description. Raises WorkerFailed."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            self.about: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **question: Any) -> Any:
        """Send a question and return the answer. Raises WorkerFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerFailed(self._death()) from error
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not sent cannot be sent any more
                    stream.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(self._death())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer["answer"]

    def _death(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"it ended with {code}"
        with contextlib.suppress(ValueError):
            return f"it died of {signal.Signals(-code).name}"
        return f"it died of signal {-code}"


def serve(load: Callable[[dict[str, Any]], tuple[dict[str, Any], Answer]]) -> None:
    """Load with the options of the command line, then answer the lines of standard input.

    ``load`` returns the worker's description of itself and a function that answers a question.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the program, which ends this one
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output that a library prints must not be read as an answer

    def send(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        about, answer = load(json.loads(sys.argv[1]))
    except Exception as error:
        send({"error": _describe(error)})
        return
    send({"answer": about})
    for line in sys.stdin:
        send(_answered(answer, json.loads(line)))


def _answered(answer: Answer, question: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": answer(question)}
    except Exception as error:
        return {"error": _describe(error)}


def _describe(error: Exception) -> str:
    """Return a description of the error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:200]}".removesuffix(": ")
