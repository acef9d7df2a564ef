"""Requests to the hub with huggingface_hub's session: its tokens, proxies, mirrors and headers.

An answer is never read without limits of size and time, as mirrors are strangers, too.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event as Flag
from typing import Any, TypeVar

import httpx2
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, logging  # type: ignore[attr-defined]

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.hub.problems import PASSING, host, offline, refused, unreachable

# Its warnings, which may come from the server, would be written over the app's screen.
logging.set_verbosity_error()  # type: ignore[no-untyped-call]
Result = TypeVar("Result")
Made = Callable[[], bool]
_LISTING_BYTES = 32 << 20  # a repository of 10,000 files has a listing of 3 MB


@dataclass(frozen=True)
class Limits:
    """How long the hub is waited for, in seconds, and how often something is tried again."""

    connect: float = 10
    silence: float = 10  # between two parts of an answer
    listing: float = 60  # for a whole listing
    slow: float = 60  # in this time ...
    slow_bytes: int = 64 << 10  # ... a download must bring so much, or it counts as cut
    tries: int = 5  # without any progress in between
    pause: float = 1  # after a failure; doubled for each further one

    @property
    def timeout(self) -> httpx2.Timeout:
        return httpx2.Timeout(self.silence, connect=self.connect)


class Broken(Exception):
    """An answer that ended early, came too slowly or made no sense; another try may help."""


def read_json(address: str, repository: str, limits: Limits) -> Any:
    """Get a JSON answer. Raises UserError if the hub refuses or sends something else, or Broken."""
    began = time.monotonic()
    data = bytearray()
    with stream(address, {}, repository, limits) as response:
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > _LISTING_BYTES or time.monotonic() - began > limits.listing:
                raise UserError(
                    f"{host()} answers without an end or far too slowly; try again later, or "
                    "check HF_ENDPOINT."
                )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{host()} does not answer as a hub does; check HF_ENDPOINT, and whether the network "
            "asks for a login first."
        ) from error


@contextmanager
def stream(
    address: str, headers: dict[str, str], repository: str, limits: Limits
) -> Iterator[httpx2.Response]:
    """Open an answer whose body is read by the caller.

    Raises UserError if the hub refuses, and Broken if it may answer at another time.
    """
    sent = {**build_hf_headers(library_name="llama_cpu"), "Accept-Encoding": "identity", **headers}
    session = get_session()
    with session.stream("GET", address, headers=sent, timeout=limits.timeout) as response:
        status = response.status_code
        if status in PASSING:
            raise Broken(f"HTTP status {status}") from refused(repository, status, response.headers)
        if status >= 400 and status != 416:  # the caller asked for a range and knows what it means
            raise refused(repository, status, response.headers)
        yield response


def patiently(
    work: Callable[[], Result],
    repository: str,
    limits: Limits,
    stop: Flag,
    made: Made | None = None,
) -> Result:
    """Call ``work`` until it succeeds, several times if the network fails.

    ``made``: returns whether there was progress since it was called last, after which failures are
    counted anew. Raises UserError that explains the last failure, and Cancelled.
    """
    failures = 0
    while True:
        try:
            return work()
        except (Broken, httpx2.RequestError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            problem = _explained(error, repository)
        except OfflineModeIsEnabled as error:
            raise offline(repository) from error
        failures = 1 if made and made() else failures + 1
        if failures >= limits.tries:
            raise problem
        if stop.wait(limits.pause * 2 ** (failures - 1)):
            raise Cancelled


def _explained(error: Exception, repository: str) -> UserError:
    """Explain a failure that may pass. Raises UserError at once for one that will not."""
    if isinstance(error, HfHubHTTPError):
        status, headers = error.response.status_code, error.response.headers
        if status not in PASSING:
            raise refused(repository, status, headers) from error
        return refused(repository, status, headers)
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return unreachable(str(error.__cause__))
    if isinstance(error, Broken) and isinstance(error.__cause__, UserError):
        return error.__cause__
    if isinstance(error, httpx2.TimeoutException):
        return UserError(
            f"{host()} does not answer in time; what has arrived is kept, and the same command "
            "resumes later."
        )
    if isinstance(error, (Broken, httpx2.ReadError, httpx2.RemoteProtocolError)):
        return UserError(
            f"The connection to {host()} keeps breaking off ({str(error)[:150]}); what has arrived "
            "is kept, and the same command resumes later."
        )
    return unreachable(str(error))
