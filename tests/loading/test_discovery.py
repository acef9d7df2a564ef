"""Looking for models: in folders, in the caches of other programs, and among broken files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch

from llama_cpu.loading.discovery import FoundModel, facts_of, find_models
from llama_cpu.weights.as_is import AS_IS
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.int8 import INT8
from tests.support.checkpoints import random_weights, tiny_config, write_gguf, write_meta
from tests.support.checkpoints import write_hugging_face as write_folder
from tests.support.merging import merge

CONFIG = tiny_config()
Names = Callable[..., dict[str, Path]]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """What is found, in a home of the test's own."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("llama_cpu.loading.discovery.model_folder", lambda: tmp_path / "model")
    monkeypatch.setattr(
        "llama_cpu.loading.discovery.demo_model_path", lambda: tmp_path / "demo.gguf"
    )

    def find(*folders: Path) -> dict[str, Path]:
        return {found.name: found.path for found in find_models(folders)}

    return find


def weights() -> dict[str, torch.Tensor]:
    return random_weights(CONFIG)


def test_nothing_anywhere(names: Names, tmp_path: Path) -> None:
    assert names() == {}
    assert names(tmp_path / "not there", tmp_path) == {}


def test_folders_and_files(names: Names, tmp_path: Path) -> None:
    write_meta(tmp_path / "model", CONFIG, weights())
    mine = tmp_path / "mine"
    write_folder(mine / "family" / "hf", CONFIG, weights())
    for name in ("a.gguf", "b.gguf"):
        (mine / "family" / "small").mkdir(exist_ok=True, parents=True)
        write_gguf(mine / "family" / "small" / name, CONFIG, weights())
    (mine / "empty").mkdir()
    (mine / ".hidden").mkdir()
    (mine / ".hidden" / "c.gguf").write_bytes(b"GGUF")
    file = mine / "family" / "small" / "a.gguf"
    assert names(mine) == {
        "model": tmp_path / "model",
        "hf": mine / "family" / "hf",
        "a": file,
        "b": file.with_name("b.gguf"),
    }
    assert names(file, mine, file) == names(mine)  # each once


def test_links_in_a_circle_and_folders_without_end(names: Names, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    deep = mine.joinpath(*["deep"] * 10)
    deep.mkdir(parents=True)
    (deep / "x.gguf").write_bytes(b"GGUF")
    (mine / "self").symlink_to(mine)
    (mine / "loop.gguf").symlink_to(mine / "loop.gguf")
    assert names(mine) in ({}, {"loop": mine / "loop.gguf"})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_looked_into(names: Names, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0)
    assert names(tmp_path / "mine") == {}
    (tmp_path / "mine").chmod(0o700)


def test_hugging_face_cache(names: Names, tmp_path: Path, monkeypatch) -> None:
    hub = tmp_path / "hf" / "hub"
    repository = hub / "models--org--Small-Llama"
    for revision in ("aaa", "bbb"):
        write_folder(repository / "snapshots" / revision, CONFIG, weights())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bbb\n")
    files = hub / "models--org--Quantised" / "snapshots" / "ccc"
    files.mkdir(parents=True)
    write_gguf(files / "q4.gguf", CONFIG, weights())
    only_tokenizer = hub / "models--org--tokenizer" / "snapshots" / "ddd"
    only_tokenizer.mkdir(parents=True)
    (only_tokenizer / "config.json").write_text("{}")
    (hub / "datasets--org--data" / "snapshots" / "eee").mkdir(parents=True)
    (hub / "models--half").mkdir()
    expected = {
        "org/Small-Llama": repository / "snapshots" / "bbb",
        "org/Quantised/q4": files / "q4.gguf",
    }
    assert names() == expected
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HOME", "/nowhere")
    assert names() == expected
    (repository / "refs" / "main").write_bytes(b"../../../\xff")
    assert names()["org/Small-Llama"].name == "aaa"


def ollama(models: Path, name: str, digest: object, kind: str = "model") -> None:
    manifest = models / "manifests" / "registry.ollama.ai" / "library" / name / "1b"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [{"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest}]
    manifest.write_text(json.dumps({"layers": layers}))


def test_ollama_cache(names: Names, tmp_path: Path, monkeypatch) -> None:
    models = tmp_path / "home" / ".ollama" / "models"
    blob = models / "blobs" / ("sha256-" + "0a" * 32)
    blob.parent.mkdir(parents=True)
    write_gguf(blob, CONFIG, weights())
    ollama(models, "llama3.2", "sha256:" + "0a" * 32)
    ollama(models, "not-fetched", "sha256:" + "0b" * 32)
    ollama(models, "upwards", "sha256:../../../../etc/passwd")
    ollama(models, "strange", ["sha256"])
    ollama(models, "template", "sha256:" + "0a" * 32, kind="template")
    for name, text in (("broken", "{"), ("list", "[]"), ("deep", "[" * 10**5)):
        (models / "manifests" / name).write_text(text)
    assert names() == {"llama3.2:1b": blob}
    assert facts_of(FoundModel(blob, "x")).parameters > 0
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "moved"))
    assert names() == {}
    shutil.move(models, tmp_path / "moved")
    assert list(names()) == ["llama3.2:1b"]


LM_STUDIO, WEBUI = ".lmstudio/models/pub/m/", "text-generation-webui/"


@pytest.mark.parametrize(
    ("platform", "file", "program"),
    [
        ("linux", f"{LM_STUDIO}m.gguf", "LM Studio"),
        ("win32", f"{LM_STUDIO}m.gguf", "LM Studio"),
        ("linux", ".cache/lm-studio/models/pub/m/m.gguf", "LM Studio"),
        ("linux", "XDG_DATA_HOME/nomic.ai/GPT4All/m.gguf", "GPT4All"),
        ("darwin", "Library/Application Support/nomic.ai/GPT4All/m.gguf", "GPT4All"),
        ("win32", "LOCALAPPDATA/nomic.ai/GPT4All/m.gguf", "GPT4All"),
        ("linux", f"{WEBUI}user_data/models/m.gguf", "text-generation-webui"),
        ("linux", f"{WEBUI}models/org_m/m.gguf", "text-generation-webui"),
        ("linux", "XDG_CACHE_HOME/llama.cpp/m.gguf", "llama.cpp"),
        ("darwin", "Library/Caches/llama.cpp/m.gguf", "llama.cpp"),
        ("win32", "LOCALAPPDATA/llama.cpp/m.gguf", "llama.cpp"),
    ],
)
def test_other_programs(
    platform: str, file: str, program: str, names: Names, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("llama_cpu.loading.other_programs.sys.platform", platform)
    path = tmp_path / "home" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    for beside in ("mmproj-m.gguf", "m-00002-of-00002.gguf", "settings.json"):
        (path.parent / beside).write_bytes(b"x")
    assert list(find_models([])) == [FoundModel(path, "m", program)]


def test_moved_folders_of_other_programs(names: Names, tmp_path: Path, monkeypatch) -> None:
    for folder in ("lm/pub/m", "cpp"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{folder[:2]}.gguf").write_bytes(b"GGUF")
    settings = tmp_path / "home" / ".lmstudio" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"downloadsFolder": str(tmp_path / "lm")}))
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cpp"))
    assert set(names()) == {"lm", "cp"}
    for text in (
        "{",
        "[]",
        '{"downloadsFolder": 7}',
        '{"downloadsFolder": "\\u0000"}',
        "[" * 10**5,
    ):
        settings.write_text(text)
        assert set(names()) == {"cp"}


def test_a_huge_folder_is_not_searched_to_its_end(
    names: Names, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("llama_cpu.loading.discovery._MOST_FOLDERS", 10)
    for number in range(20):
        folder = tmp_path / "home" / ".lmstudio" / "models" / f"{number:02}"
        folder.mkdir(parents=True)
        (folder / f"{number}.gguf").write_bytes(b"GGUF")
    assert len(names()) == 9


def test_interrupted_downloads_are_not_offered(names: Names, tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "hub" / "models--org--m" / "snapshots" / "aaa"
    (folder / "Q8_0").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    first.write_bytes(b"x")
    assert names() == {}
    second.write_bytes(b"x")
    assert names() == {"org/m": folder}
    (folder / "Q8_0" / "m.gguf").write_bytes(b"GGUF")
    assert names() == {"org/m/m": folder / "Q8_0" / "m.gguf"}


def test_the_demo_model(names: Names, tmp_path: Path) -> None:
    (tmp_path / "demo.gguf").write_bytes(b"GGUF")
    assert names() == {"demo": tmp_path / "demo.gguf"}


# Headers


@pytest.mark.parametrize(
    ("kind", "file_type"), [(gguf.GGMLQuantizationType.Q8_0, "Q8_0"), (None, "bfloat16")]
)
def test_facts(kind, file_type: str, tmp_path: Path) -> None:
    config = tiny_config(dim=64, n_heads=2, n_kv_heads=2, head_dim=32, hidden_dim=64)
    tensors = random_weights(config)
    if kind:
        path = write_gguf(tmp_path / "m.gguf", config, tensors, kind)
    else:
        path = write_meta(
            tmp_path / "m", config, {name: each.bfloat16() for name, each in tensors.items()}
        )
    facts = facts_of(FoundModel(path, "m"))
    assert facts.problem == "" and facts.file_type == file_type
    assert facts.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert facts.architecture == f"LLaMA, {config.n_layers} layers, 64 wide"
    assert facts.memory.keys() == set(FORMATS)
    assert facts.memory[INT8].weights < facts.memory[FLOAT32].weights
    small = facts_of(FoundModel(path, "m"), kv_int8=True)
    assert small.memory[FLOAT32].kv_cache < facts.memory[FLOAT32].kv_cache / 3


@pytest.mark.parametrize(
    "data", [b"", b"GGUF", b"GGUF" + b"\xff" * 100, b"\x1b[2J", b"GGUF" + bytes(1000)]
)
def test_a_broken_file_is_a_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    facts = facts_of(FoundModel(path, "m"))
    assert facts.problem and not facts.memory and len(facts.problem) < 500


def test_another_architecture_is_a_sentence(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", CONFIG, weights())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "gemma3"}))
    assert "gemma3" in facts_of(FoundModel(folder, "m")).problem


def test_files_that_would_be_read_whole_are_left_alone(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "m", CONFIG, weights())
    old = {"a": torch.zeros(1)}
    torch.save(old, folder / "consolidated.00.pth", _use_new_zipfile_serialization=False)
    assert "old format" in facts_of(FoundModel(folder, "m")).problem


def test_a_fault_of_the_program_hides_no_other_model(tmp_path: Path, monkeypatch) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("llama_cpu.loading.discovery.open_checkpoint", broken)
    assert "ZeroDivisionError" in facts_of(FoundModel(tmp_path, "m")).problem


@pytest.mark.parametrize(
    ("option", "name"), [("--int8", "int8"), ("--int4", "Q4_1"), ("--bf16", "bfloat16")]
)
def test_the_type_of_a_merged_model(option: str, name: str, tmp_path: Path) -> None:
    config = tiny_config(n_layers=4)  # most weights are in layers
    words = ("--input_dir", write_meta(tmp_path / "in", config, random_weights(config)))
    assert merge(*words, option, "--output_dir", tmp_path / "out") == 0
    facts = facts_of(FoundModel(tmp_path / "out", "out"))
    assert facts.problem == ""
    assert facts.file_type == name
    assert facts.memory[AS_IS].weights <= facts.memory[FLOAT32].weights
