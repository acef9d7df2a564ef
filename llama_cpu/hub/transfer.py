"""The download of one file: it is appended to what an earlier run left, and then checked.

huggingface_hub itself resumes only within one call: since version 2, it deletes what it has when a
call ends, and a killed one leaves a file that is never used again.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import BinaryIO

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.hub.listing import HubFile
from llama_cpu.hub.requests import Broken, Limits, patiently, stream
from llama_cpu.system.safe_reading import reason

OnBytes = Callable[[int], None]  # takes the number of bytes that are done


@dataclass
class Transfer:
    """A file on its way from ``address`` to ``target``, which may hold its beginning already."""

    address: str
    target: Path
    file: HubFile
    repository: str
    on_bytes: OnBytes
    stop: Flag
    limits: Limits

    def run(self) -> None:
        """Download what is missing.

        What has arrived stays in ``target`` whatever happens, so that the next run goes on with
        it. Raises UserError if the hub refuses, if the connection keeps breaking off, or if
        ``target`` cannot be written, and Cancelled if ``stop`` is set.
        """
        try:
            if present_bytes(self.target) > self.file.size:
                self.target.unlink()
            self.target.touch()
            self._before = present_bytes(self.target)
            patiently(self._receive, self.repository, self.limits, self.stop, self._has_progressed)
        except OSError as error:
            raise UserError(
                f"{self.target.parent} cannot be written ({reason(error)}); make room there or set "
                "HF_HOME to another folder, then run the same command again."
            ) from error

    def _has_progressed(self) -> bool:
        last, self._before = self._before, present_bytes(self.target)
        return self._before - last >= self.limits.slow_bytes

    def _receive(self) -> None:
        """Append what one answer brings. Raises Broken if something is missing after it."""
        have = present_bytes(self.target)
        if have == self.file.size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        with stream(self.address, headers, self.repository, self.limits) as response:
            if have and not _continues(response.status_code, response.headers, have):
                os.truncate(self.target, 0)  # this server sends no parts of files
                have = 0
                if response.status_code != 200:
                    raise Broken("it does not resume")
            with self.target.open("ab") as target:
                self._append(response.iter_bytes(), target, have)
                os.fsync(target.fileno())
        if present_bytes(self.target) < self.file.size:
            raise Broken("it ended early")

    def _append(self, chunks: Iterator[bytes], target: BinaryIO, have: int) -> None:
        """Write until the file is complete; whatever else may be sent is not read."""
        size, limits = self.file.size, self.limits
        since, mark = time.monotonic(), have
        for chunk in chunks:
            if self.stop.is_set():
                raise Cancelled
            target.write(chunk[: size - have])
            target.flush()
            have = min(size, have + len(chunk))
            self.on_bytes(have)
            if have == size:
                return
            if time.monotonic() - since > limits.slow:
                if have - mark < limits.slow_bytes:
                    raise Broken("it is far too slow")
                since, mark = time.monotonic(), have


def _continues(status: int, headers: Mapping[str, str], have: int) -> bool:
    """Return whether an answer begins where it was asked to."""
    return status == 206 and headers.get("Content-Range", "").startswith(f"bytes {have}-")


def present_bytes(target: Path) -> int:
    """Return the size of a file; 0 if it does not exist."""
    return target.stat().st_size if target.exists() else 0


def is_intact(path: Path, file: HubFile, on_bytes: OnBytes, stop: Flag) -> bool:
    """Compare a file with the hub's checksum; a file without one is only as long as it should be.

    A checksum is the SHA-256 of a file in LFS; of other files it is git's: the SHA-1 of "blob",
    the size, a null byte, and the contents. Raises Cancelled if ``stop`` is set.
    """
    if not (file.sha256 or file.git_sha1):
        return present_bytes(path) == file.size
    digest = hashlib.sha256()
    if not file.sha256:
        digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    done = 0
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            if stop.is_set():
                raise Cancelled
            digest.update(block)
            done += len(block)
            on_bytes(done)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)
