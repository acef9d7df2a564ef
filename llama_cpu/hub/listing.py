"""The files of a repository with their sizes and checksums, as the hub lists them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import Event as Flag
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.hub.places import endpoint
from llama_cpu.hub.problems import host
from llama_cpu.hub.requests import Limits, patiently, read_json

_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 100_000


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; ``size`` in bytes.

    ``sha256``: of its contents, if it is stored with LFS; else ``git_sha1`` is git's object id.
    """

    name: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit. ``architecture``: as GGUF or config.json call it; or ""."""

    repository: str
    commit: str
    files: Mapping[str, HubFile]
    architecture: str = ""


def list_files(repository: str, limits: Limits, stop: Flag) -> Listing:
    """Ask the hub for the files of a repository's main branch. Raises UserError and Cancelled."""
    address = f"{endpoint()}/api/models/{repository}?blobs=true"
    values = patiently(lambda: read_json(address, repository, limits), repository, limits, stop)
    try:
        commit = values["sha"]
        if not _SHA1.fullmatch(commit):
            raise ValueError(commit)
        files = [_file(each) for each in values["siblings"][:_MOST_FILES]]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{host()} lists {repository} in a way that is not the hub's; check HF_ENDPOINT."
        ) from error
    return Listing(
        repository, commit, {each.name: each for each in files if each}, _architecture(values)
    )


def _file(sibling: Any) -> HubFile | None:
    """Read one entry; None if its name cannot be a file's or its size is unknown."""
    name, size, lfs = sibling["rfilename"], sibling.get("size"), sibling.get("lfs") or {}
    if not isinstance(size, int) or size < 0 or not _is_plain(name):
        return None
    sha256, blob_id = lfs.get("sha256") or "", sibling.get("blobId") or ""
    return HubFile(
        name,
        size,
        sha256 if _SHA256.fullmatch(sha256) else "",
        blob_id if _SHA1.fullmatch(blob_id) else "",
    )


def _is_plain(name: str) -> bool:
    """Return whether a name stays in its folder on every system."""
    parts = PurePosixPath(name).parts
    forbidden = re.search(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|]', name)
    return bool(parts) and not forbidden and not name.startswith("/") and ".." not in parts


def _architecture(values: Any) -> str:
    for holder, key in (("gguf", "architecture"), ("config", "model_type")):
        inner = values.get(holder)
        if isinstance(inner, dict) and isinstance(inner.get(key), str):
            return str(inner[key])
    return ""
