"""A server on the loopback address that speaks the part of the hub's interface that pulls use.

It answers the listing of a repository (``/api/models/ORG/REPO?blobs=true``), HEAD and GET of files
(``/ORG/REPO/resolve/REVISION/FILE``) with redirects for files in LFS, as the hub does, and Range.
Faults are set on it by tests.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40
LFS_BYTES = 1000  # larger files are in LFS


@dataclass
class Hub:
    """The repositories and the faults of a server.

    ``refusal``: status and headers of every answer. ``refusal_of_files``: of those about files.
    ``cuts``: after so many bytes each of the next downloads ends, one after the other.
    ``drip``: seconds between parts of an answer of ``drip_bytes`` each. ``noise``: bytes of a
    download are exchanged. ``endless``: answers go on after their end, without a length.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # further entries of listings
    commit: str = COMMIT
    refusal: tuple[int, dict[str, str]] | None = None
    refusal_of_files: tuple[int, dict[str, str]] | None = None
    cuts: list[int] = field(default_factory=list)
    busy: int = 0  # so many requests are answered with 503 first
    drip: float = 0.0
    drip_bytes: int = 1024
    noise: bool = False
    endless: bool = False
    sends_parts: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    tokens: list[tuple[str, str | None]] = field(default_factory=list)  # path, Authorization
    address: str = ""

    def downloads(self) -> list[str]:
        """The ranges of the requests for files in LFS."""
        return [span for method, path, span in self.asked if path.startswith("/cdn/")]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the server until the end of the context."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = hub  # type: ignore[attr-defined]
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that goes away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        hub.tokens.append((path, self.headers.get("Authorization")))
        if hub.busy:
            hub.busy -= 1
            self._send(503, {}, b"busy")
        elif hub.refusal:
            self._send(*hub.refusal, b'{"error": "no"}')
        elif path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            repository, _, rest = path[1:].partition("/resolve/")
            self._resolve(repository, rest.partition("/")[2])
        elif path.startswith("/cdn/"):
            repository, _, name = path.removeprefix("/cdn/").partition("//")
            self._send_file(hub.repositories[repository][name])

    def _list(self, repository: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._send(401, {"X-Error-Code": "RepoNotFound"}, b"{}")
            return
        siblings = [_sibling(name, data) for name, data in files.items()]
        values = {"id": repository, "sha": self.hub.commit, "siblings": siblings, **self.hub.extra}
        body = json.dumps(values).encode()
        if self.hub.endless:
            self._send_endless(b" " * 1024)
        else:
            self._send(200, {}, body)

    def _resolve(self, repository: str, name: str) -> None:
        data = self.hub.repositories.get(repository, {}).get(name)
        if self.hub.refusal_of_files:
            self._send(*self.hub.refusal_of_files, b"{}")
        elif data is None:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"{}")
        else:
            headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{_etag(data)}"'}
            if len(data) > LFS_BYTES:
                headers |= {
                    "X-Linked-Size": str(len(data)),
                    "X-Linked-Etag": headers["ETag"],
                    # As of files that the hub stores with Xet, which hf_xet would get elsewhere.
                    "X-Xet-Hash": "ab" * 32,
                    "X-Xet-Refresh-Route": f"{self.hub.address}/xet-read-token",
                    # On another host, as the hub's files are, so that the client has to follow.
                    "Location": f"{self.hub.address.replace('127.0.0.1', 'localhost')}"
                    f"/cdn/{repository}//{name}",
                }
                self._send(302, headers, b"")
            elif self.command == "HEAD":
                self._send(200, headers | {"Content-Length": str(len(data))}, b"")
            else:
                self._send_file(data, headers)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(body)

    def _send_file(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        hub, status, begin = self.hub, 200, 0
        headers = dict(headers or {})
        if (span := self.headers.get("Range")) and hub.sends_parts:
            begin = int(span.removeprefix("bytes=").rstrip("-"))
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        body = data[begin:]
        if hub.noise:
            body = bytes(len(body))
        if hub.endless:
            self._send_endless(body, status, headers)
            return
        cut = hub.cuts.pop(0) if hub.cuts and len(data) > LFS_BYTES else None
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self._write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def _send_endless(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Send the body again and again, in chunks."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        while self._write(chunk):
            pass

    def _write(self, data: bytes) -> bool:
        hub = self.hub
        step = hub.drip_bytes if hub.drip else len(data) or 1
        try:
            for begin in range(0, len(data), step):
                self.wfile.write(data[begin : begin + step])
                self.wfile.flush()
                if hub.drip:
                    time.sleep(hub.drip)
        except OSError:  # the client has gone
            self.close_connection = True
            return False
        return True


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_id(data)}
    if len(data) > LFS_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return entry


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) > LFS_BYTES else _git_id(data)


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
