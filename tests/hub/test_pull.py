"""Downloads from a hub on the loopback address, whole and with every fault."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import hf_hub_download

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.hub.cached import cached_model
from llama_cpu.hub.places import hub_cache
from llama_cpu.hub.pull import Pulled, pull
from llama_cpu.hub.reference import parse_reference
from llama_cpu.hub.requests import Limits
from llama_cpu.hub.transfer import present_bytes
from tests.hub.conftest import MODEL, REPOSITORY
from tests.support.hub_server import COMMIT, Hub

QUICK = Limits(connect=5, silence=5, pause=0.01, slow_bytes=1000)


def get(
    text: str = REPOSITORY,
    limits: Limits = QUICK,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    stop: threading.Event | None = None,
) -> Pulled:
    return pull(parse_reference(text), on_progress, stop or threading.Event(), limits)


def partials() -> list[Path]:
    return sorted(hub_cache().rglob("*.incomplete"))


def test_a_whole_download(hub: Hub) -> None:
    seen: list[tuple[int, int, str]] = []
    pulled = get(on_progress=lambda *step: seen.append(step))
    assert pulled.path.read_bytes() == MODEL
    assert pulled.path.name == "Small-Q4_K_M.gguf" and pulled.path.parent.name == COMMIT
    assert seen[-1][:2] == (len(MODEL), len(MODEL)) and "checking" in seen[-1][2]
    assert len(hub.downloads()) == 1 and not partials()
    assert all("pytorch_model" not in path for _, path, _ in hub.asked)
    assert all("xet" not in path for _, path, _ in hub.asked)
    # It is where huggingface_hub itself looks, also for the main branch and offline.
    again = hf_hub_download(
        REPOSITORY, pulled.path.name, cache_dir=hub_cache(), local_files_only=True
    )
    assert Path(again) == pulled.path
    assert get().path == pulled.path and len(hub.downloads()) == 1  # not once more


def test_a_cache_behind_a_link(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "link"))
    path = get().path
    assert path.is_relative_to(tmp_path / "link") and path.read_bytes() == MODEL
    assert cached_model(parse_reference(REPOSITORY)) == path


def test_a_system_without_links_keeps_one_copy(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    path = get().path
    assert path.read_bytes() == MODEL and not path.is_symlink()
    assert [file for file in hub_cache().rglob("*") if present_bytes(file) > 200_000] == [path]
    assert get().path == path and len(hub.downloads()) == 1
    assert cached_model(parse_reference(REPOSITORY)) == path


def test_the_quantization_in_any_case(hub: Hub) -> None:
    assert get(f"{REPOSITORY}:q8_0").path.name == "Small-Q8_0.gguf"
    with pytest.raises(UserError, match=r"has no Q5_K_M; there are: Q4_K_M, Q8_0\."):
        get(f"{REPOSITORY}:Q5_K_M")


def test_cut_connections_are_resumed(hub: Hub) -> None:
    hub.cuts = [70_000, 0, 100_000]
    assert get().path.read_bytes() == MODEL
    starts = hub.downloads()
    assert starts == ["", "bytes=70000-", "bytes=70000-", "bytes=170000-"]


def test_a_connection_that_is_always_cut(hub: Hub) -> None:
    hub.cuts = [50_000] + [0] * 20
    with pytest.raises(UserError, match="resumes later"):
        get()
    assert partials()[0].read_bytes() == MODEL[:50_000]
    hub.cuts = []
    assert get().path.read_bytes() == MODEL
    assert hub.downloads()[-1] == "bytes=50000-"


def test_a_pause_and_the_next_run(hub: Hub) -> None:
    stop = threading.Event()
    hub.drip, hub.drip_bytes = 0.001, 10_000

    def stop_later(done: int, total: int, text: str) -> None:
        if done > total / 2:
            stop.set()

    with pytest.raises(Cancelled):
        get(on_progress=stop_later, stop=stop)
    kept = partials()[0].stat().st_size
    assert len(MODEL) / 2 < kept < len(MODEL)
    assert get().path.read_bytes() == MODEL
    assert hub.downloads()[-1] == f"bytes={kept}-"


def test_a_server_that_sends_no_parts(hub: Hub) -> None:
    hub.cuts, hub.sends_parts = [70_000], False
    assert get().path.read_bytes() == MODEL


def test_a_wrong_checksum(hub: Hub) -> None:
    hub.noise = True
    with pytest.raises(UserError, match="arrived damaged"):
        get()
    assert not partials() and not list(hub_cache().rglob("*.gguf"))
    hub.noise = False
    assert get().path.read_bytes() == MODEL


def test_a_damaged_beginning_is_not_kept(hub: Hub) -> None:
    hub.cuts = [50_000] + [0] * 20
    with pytest.raises(UserError):
        get()
    partials()[0].write_bytes(bytes(50_000))
    hub.cuts = []
    with pytest.raises(UserError, match="arrived damaged"):
        get()
    assert get().path.read_bytes() == MODEL


def test_a_beginning_that_is_too_long(hub: Hub) -> None:
    hub.cuts = [50_000] + [0] * 20
    with pytest.raises(UserError):
        get()
    partials()[0].write_bytes(MODEL + b"and more")
    hub.cuts = []
    assert get().path.read_bytes() == MODEL


REFUSALS = [
    ((401, {"X-Error-Code": "GatedRepo"}), "is gated: ask for access on its page, http"),
    ((403, {"X-Error-Code": "GatedRepo"}), "`hf auth login` or set HF_TOKEN"),
    ((401, {"X-Error-Code": "RepoNotFound"}), "or it is private"),
    ((401, {}), "or it is private"),
    (
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "does not accept your token",
    ),
    ((403, {}), "ask for access"),
    ((404, {}), "There is no org/Small-GGUF"),
    ((418, {}), "HTTP status 418"),
    ((500, {}), "HTTP status 500"),
    ((429, {}), "too many requests"),
]


@pytest.mark.parametrize(("refusal", "sentence"), REFUSALS, ids=str)
def test_refusals(hub: Hub, refusal: tuple[int, dict[str, str]], sentence: str) -> None:
    hub.refusal = refusal
    with pytest.raises(UserError) as caught:
        get()
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_lists_its_files_first(hub: Hub, status: int) -> None:
    hub.refusal_of_files = status, {"X-Error-Code": "GatedRepo"}
    with pytest.raises(UserError, match="is gated"):
        get()


def test_a_repository_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(UserError, match="There is no org/other on 127"):
        get("org/other")


def test_a_hub_that_is_busy_for_a_moment(hub: Hub) -> None:
    hub.busy = 3
    assert get().path.read_bytes() == MODEL


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot be reached"):
        get()


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        get()
    assert not hub.asked


def test_an_answer_that_drips(hub: Hub) -> None:
    hub.drip, hub.drip_bytes = 0.02, 1
    hub.repositories[REPOSITORY] = {"config.json": b"{}"}  # a short listing
    with pytest.raises(UserError, match="far too slowly"):
        get(limits=Limits(pause=0.01, listing=0.2))


def test_a_download_that_drips(hub: Hub) -> None:
    def drip(done: int, total: int, text: str) -> None:
        hub.drip, hub.drip_bytes = 0.01, 10

    hub.cuts = [100_000]
    limits = Limits(pause=0.01, slow=0.05, slow_bytes=64_000, tries=2)
    with pytest.raises(UserError, match="far too slow"):
        get(limits=limits, on_progress=drip)
    hub.drip = 0
    assert get().path.read_bytes() == MODEL


def test_a_silent_server(hub: Hub) -> None:
    hub.drip, hub.drip_bytes = 30, 10
    with pytest.raises(UserError, match="does not answer in time"):
        get(limits=Limits(silence=0.1, pause=0.01, tries=2))


def test_an_endless_listing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cpu.hub.requests._LISTING_BYTES", 1 << 20)
    hub.endless = True
    with pytest.raises(UserError, match="without an end"):
        get()


def test_an_endless_download(hub: Hub) -> None:
    def go_on(done: int, total: int, text: str) -> None:
        hub.endless = True

    hub.cuts = [100_000]
    assert get(on_progress=go_on).path.read_bytes() == MODEL


@pytest.mark.parametrize(
    "extra",
    [
        {"sha": "../../x"},
        {"sha": 7},
        {"siblings": None},
        {"siblings": [7]},
        {"siblings": [{"rfilename": 1, "size": 1}]},
        {"siblings": [{"rfilename": "../../a-Q4_K_M.gguf", "size": 5}]},
        {"siblings": [{"rfilename": "a.gguf", "size": "5"}]},
        {"siblings": [{"rfilename": "a.gguf", "size": 5, "lfs": [1]}]},
    ],
    ids=str,
)
def test_listings_that_are_none(hub: Hub, extra: dict[str, object]) -> None:
    hub.extra = extra
    with pytest.raises(UserError):
        get()
    assert not list(hub_cache().rglob("*.gguf"))


def test_another_architecture_is_refused_before_the_download(hub: Hub) -> None:
    hub.extra = {"gguf": {"architecture": "gemma3"}}
    with pytest.raises(UserError, match="'gemma3' is not supported"):
        get()
    assert not hub.downloads()


def test_a_full_disk_is_noticed_before_it_begins(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"needs 293 KiB more, but only 97\.7 KiB are free"):
        get()
    assert not hub.downloads()
    hub.cuts = [250_000] + [0] * 20
    free.free = 300_000
    with pytest.raises(UserError, match="resumes later"):
        get()
    hub.cuts, free.free = [], 100_000  # enough for what is left
    assert get().path.read_bytes() == MODEL


def test_a_disk_that_becomes_full(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llama_cpu.hub.transfer.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        get()


def test_the_repository_changes_meanwhile(hub: Hub) -> None:
    def change(done: int, total: int, text: str) -> None:
        hub.commit = "2" * 40

    with pytest.raises(UserError, match="was changed on the hub just now"):
        get(on_progress=change)
    assert get().path.read_bytes() == MODEL
    assert len(hub.downloads()) == 1  # the blob is the same


SHARDS = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": MODEL[:5000],
    "model-00002-of-00002.safetensors": MODEL[5000:9000],
    "model.safetensors.index.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"x",
}


def test_a_folder_of_safetensors(hub: Hub) -> None:
    hub.repositories["org/Folder"] = SHARDS
    stop = threading.Event()

    def stop_before_last(done: int, total: int, text: str) -> None:
        if "00002-of" in text:
            stop.set()

    reference = parse_reference("org/Folder")
    with pytest.raises(Cancelled):
        get("org/Folder", on_progress=stop_before_last, stop=stop)
    assert cached_model(reference) is None  # not complete yet
    path = get("org/Folder").path
    there = {file.name: file.read_bytes() for file in path.iterdir()}
    assert there == {n: data for n, data in SHARDS.items() if not n.endswith((".bin", ".onnx"))}
    assert cached_model(reference) == path


def test_cached_models_need_no_hub(hub: Hub) -> None:
    assert cached_model(parse_reference(REPOSITORY)) is None
    path = get(f"{REPOSITORY}:Q8_0").path
    hub.asked.clear()
    assert cached_model(parse_reference(REPOSITORY)) == path
    assert cached_model(parse_reference(f"{REPOSITORY}:q8_0")) == path
    assert cached_model(parse_reference(f"{REPOSITORY}:Q4_K_M")) is None
    path.resolve().unlink()
    assert cached_model(parse_reference(REPOSITORY)) is None
    assert not hub.asked


def test_a_token_goes_to_the_hub_and_not_to_other_hosts(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get()
    assert {path.startswith("/cdn/") for path, token in hub.tokens if not token} == {True}
    assert {token for path, token in hub.tokens if not path.startswith("/cdn/")} == {
        "Bearer hf_secret"
    }
