"""Downloads a model into the hub's cache, where huggingface_hub and other programs find it, too."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import TypeVar

from filelock import Timeout
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import are_symlinks_supported
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from llama_cpu.errors import UserError
from llama_cpu.hub.choice import choose_files
from llama_cpu.hub.listing import HubFile, Listing, list_files
from llama_cpu.hub.places import endpoint, hub_cache, is_offline, repository_folder
from llama_cpu.hub.problems import offline
from llama_cpu.hub.reference import Reference
from llama_cpu.hub.requests import Limits, patiently
from llama_cpu.hub.transfer import Transfer, is_intact, present_bytes
from llama_cpu.system.safe_reading import reason
from llama_cpu.system.text import human_bytes

# Takes the bytes that are done, all bytes, and what is being done.
OnProgress = Callable[[int, int, str], None]
Result = TypeVar("Result")
_LOCK_SECONDS = 15  # a download that was stopped just before may still hold it


@dataclass(frozen=True)
class Pulled:
    """A model on the disk: a GGUF file or a folder. ``note``: a sentence for the user, or ""."""

    path: Path
    note: str = ""


def pull(
    reference: Reference, on_progress: OnProgress, stop: Flag, limits: Limits | None = None
) -> Pulled:
    """Download the files of a model; those that are there already are not downloaded again.

    Raises UserError if the hub refuses or cannot be reached, if a file is damaged on its way, or
    if there is no room for it, and Cancelled if ``stop`` is set. What has arrived is kept in both
    cases, and the next call resumes.
    """
    if is_offline():
        raise offline(str(reference))
    limits = limits or Limits()
    listing = list_files(reference.repository, limits, stop)
    choice = choose_files(listing.files.keys(), reference)
    _require_supported(listing, choice.is_folder)
    work = _Pull(listing, [listing.files[name] for name in choice.names], on_progress, stop, limits)
    try:
        paths = work.run()
    except OSError as error:
        raise UserError(
            f"The hub's cache, {hub_cache()}, cannot be written ({reason(error)}); set HF_HOME to "
            "another folder."
        ) from error
    return Pulled(paths[0].parent if choice.is_folder else paths[0], choice.note)


def _require_supported(listing: Listing, is_folder: bool) -> None:
    """Refuse a model that could not be run, if the hub names its architecture.

    Raises UserError.
    """
    if listing.architecture:
        from llama_cpu.model.architectures import gguf_architecture, hugging_face_architecture

        look_up = hugging_face_architecture if is_folder else gguf_architecture
        look_up(listing.architecture, Path(listing.repository))


@dataclass
class _Pull:
    """The download of several files of one commit."""

    listing: Listing
    files: Sequence[HubFile]
    on_progress: OnProgress
    stop: Flag
    limits: Limits

    def run(self) -> list[Path]:
        """Return the paths of the files in the cache."""
        self.total = sum(file.size for file in self.files)
        self.done = 0
        blobs = repository_folder(self.listing.repository) / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        targets = [(file, blobs / self._etag(file)) for file in self.files]
        self._require_room(targets)
        paths = []
        for file, blob in targets:
            self._fetch(file, blob)
            self.done += file.size
            paths.append(self._link(file))
        return paths

    def _etag(self, file: HubFile) -> str:
        """Ask for the name of a file in the cache. Raises UserError."""
        url = hf_hub_url(self.listing.repository, file.name, endpoint=endpoint())
        metadata = self._patiently(
            lambda: get_hf_file_metadata(url, timeout=self.limits.connect, endpoint=endpoint())
        )
        if metadata.commit_hash not in (self.listing.commit, None):
            raise self._changed()
        etag = metadata.etag or ""
        # It becomes a file's name.
        if metadata.commit_hash is None or not re.fullmatch(r"[0-9A-Za-z-]{8,128}", etag):
            raise UserError(
                f"{endpoint()} does not answer as a hub does about {file.name}; check HF_ENDPOINT."
            )
        return etag

    def _require_room(self, targets: Sequence[tuple[HubFile, Path]]) -> None:
        missing = sum(
            max(0, file.size - present_bytes(_partial(blob)))
            for file, blob in targets
            if not self._is_here(file, blob)
        )
        free = shutil.disk_usage(targets[0][1].parent).free
        if missing > free:
            raise UserError(
                f"{self.listing.repository} needs {human_bytes(missing)} more, but only "
                f"{human_bytes(free)} are free in {hub_cache()}; make room there, or set HF_HOME "
                "to a folder on another disk."
            )

    def _fetch(self, file: HubFile, blob: Path) -> None:
        """Download a file if it is not there. Raises UserError and Cancelled."""
        if self._is_here(file, blob):
            return
        locks = hub_cache() / ".locks" / blob.parent.parent.name
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with WeakFileLock(locks / f"{blob.name}.lock", timeout=_LOCK_SECONDS):
                if not self._is_here(file, blob):
                    self._fetch_locked(file, blob)
        except Timeout as error:
            raise UserError(
                f"{file.name} is being downloaded by another program; wait until it is done."
            ) from error

    def _fetch_locked(self, file: HubFile, blob: Path) -> None:
        repository, partial = self.listing.repository, _partial(blob)
        commit = self.listing.commit
        url = hf_hub_url(repository, file.name, revision=commit, endpoint=endpoint())
        done, total = self.done, self.total

        def arrived(count: int) -> None:
            self.on_progress(done + count, total, file.name)

        def checked(count: int) -> None:
            self.on_progress(done + count, total, f"checking {file.name}")

        Transfer(url, partial, file, repository, arrived, self.stop, self.limits).run()
        if not is_intact(partial, file, checked, self.stop):
            partial.unlink()
            raise UserError(
                f"{file.name} arrived damaged (its checksum is not the hub's), so it was thrown "
                "away; run the same command again, perhaps without HF_ENDPOINT's mirror."
            )
        # Where links do not work, as on many Windows, there are no blobs, but only snapshots.
        final = blob if are_symlinks_supported(hub_cache()) else self._path(file)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(final)

    def _path(self, file: HubFile) -> Path:
        """Return the path of a file in the snapshot, which need not exist."""
        snapshots = repository_folder(self.listing.repository) / "snapshots"
        return snapshots / self.listing.commit / file.name

    def _is_here(self, file: HubFile, blob: Path) -> bool:
        return blob.exists() or self._path(file).exists()

    def _link(self, file: HubFile) -> Path:
        """Have huggingface_hub put the file into the snapshot; return its path. Raises UserError.

        The path is made from the cache's as the user has it, in which huggingface_hub would replace
        links, so that it is the same as that of a model that is found there.
        """

        def link() -> str:
            return hf_hub_download(
                self.listing.repository,
                file.name,
                cache_dir=hub_cache(),
                endpoint=endpoint(),
                etag_timeout=self.limits.connect,
            )

        linked, path = Path(self._patiently(link)), self._path(file)
        if not (path.exists() and path.samefile(linked)):
            raise self._changed()
        return path

    def _patiently(self, work: Callable[[], Result]) -> Result:
        return patiently(work, self.listing.repository, self.limits, self.stop)

    def _changed(self) -> UserError:
        return UserError(
            f"{self.listing.repository} was changed on the hub just now; run the same command "
            "again."
        )


def _partial(blob: Path) -> Path:
    """Return the file that grows while a blob is downloaded."""
    return blob.with_name(f"{blob.name}.incomplete")
