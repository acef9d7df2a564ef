"""Shards to one file and back: values, files, and the loader on top of them."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.cli.merge_display import MergeDisplay
from llama_cpu.model.config import ModelConfig
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.merging import (
    ROOT,
    assert_same,
    joined_by_cat,
    leftovers,
    load_merged,
    merge,
    write_half,
)


def proportions(n_heads: int, hidden_per_head: float, layers: int) -> ModelConfig:
    """A real model's heads and proportions, with heads of 8 instead of 128 numbers."""
    dim = 8 * n_heads
    return tiny_config(
        dim=dim,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=8,
        hidden_dim=int(hidden_per_head * n_heads),
        n_layers=layers,
        vocab_size=1000,
    )


SIZES = {
    "13B": (2, proportions(40, 13824 / 40 / 16, 4)),
    "30B": (4, proportions(52, 17920 / 52 / 16, 3)),
    "65B": (8, proportions(64, 22016 / 64 / 16, 3)),
}


@pytest.mark.parametrize("size", SIZES)
def test_real_proportions_against_torch_cat(size: str, tmp_path: Path, capsys) -> None:
    n_shards, config = SIZES[size]
    write_half(tmp_path / "LLaMA" / size, n_shards, config)
    arguments = ("--input_dir", tmp_path / "LLaMA", "--model_size", size, "--verify")
    assert merge(*arguments, "--output_dir", tmp_path / "out") == 0
    assert_same(load_merged(tmp_path / "out"), joined_by_cat(tmp_path / "LLaMA" / size))
    printed = capsys.readouterr().out
    assert "identical" in printed
    assert "anonymous memory at most" in printed
    assert leftovers(tmp_path / "out") == []
    assert open_checkpoint(tmp_path / "out").config.hidden_dim == config.hidden_dim


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_llama_3_splits_the_embedding_on_the_vocabulary(n_shards: int, tmp_path: Path) -> None:
    config = tiny_config(n_heads=8, n_kv_heads=4, head_dim=8)
    write_half(tmp_path / "8B", n_shards, config, embedding_dim=0)
    assert merge("--input_dir", tmp_path / "8B", "--output_dir", tmp_path / "out") == 0
    assert_same(load_merged(tmp_path / "out"), joined_by_cat(tmp_path / "8B", embedding_dim=0))


@pytest.mark.parametrize("size", SIZES)
def test_int4_of_shards_is_int4_of_the_merged_model(size: str, tmp_path: Path) -> None:
    """Byte for byte, with rows of wo and w2 that are spread over the shards."""
    n_shards, config = SIZES[size]
    shards = write_half(tmp_path / size, n_shards, config)
    assert merge("--input_dir", shards, "--int4", "--output_dir", tmp_path / "direct") == 0
    assert merge("--input_dir", shards, "--output_dir", tmp_path / "one") == 0
    (tmp_path / "one" / "merged.pth").rename(tmp_path / "one" / "consolidated.00.pth")
    words = ("--input_dir", tmp_path / "one", "--int4", "--verify")
    assert merge(*words, "--output_dir", tmp_path / "two") == 0
    first, second = (tmp_path / name / "merged.pth" for name in ("direct", "two"))
    assert first.read_bytes() == second.read_bytes()
    done = subprocess.run([sys.executable, "-m", "zipfile", "-t", first], capture_output=True)
    assert done.stdout.split() == [b"Done", b"testing"]


@pytest.mark.parametrize("option", ["--bf16", "--fp32"])
@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_other_types_and_formats(option: str, file_format: str, tmp_path: Path) -> None:
    write_half(tmp_path / "in", 2)
    arguments = ("--input_dir", tmp_path / "in", option, "--format", file_format, "--verify")
    assert merge(*arguments, "--output_dir", tmp_path / "out") == 0
    dtype = torch.bfloat16 if option == "--bf16" else torch.float32
    wanted = {name: tensor.to(dtype) for name, tensor in joined_by_cat(tmp_path / "in").items()}
    if file_format == "pth":
        assert_same(load_merged(tmp_path / "out"), wanted)
    else:
        found = load_file(tmp_path / "out" / "model.safetensors")
        assert_same({name: found[name] for name in wanted}, wanted)
    for name, stored in open_checkpoint(tmp_path / "out").tensors.items():
        values = torch.empty(stored.shape, dtype=dtype)
        stored.fill(values)
        assert torch.equal(values, wanted[name])


def test_types_within_one_model_are_kept(tmp_path: Path) -> None:
    """Wide and narrow tensors in turn: safetensors must still be readable, and aligned."""
    weights = {}
    for number, (name, tensor) in enumerate(random_weights(tiny_config(vocab_size=321)).items()):
        weights[name] = tensor.to([torch.float16, torch.float32, torch.bfloat16][number % 3])
    write_meta(tmp_path / "in", tiny_config(vocab_size=321), weights)
    assert merge("--input_dir", tmp_path / "in", "--output_dir", tmp_path / "out") == 0
    assert_same(load_merged(tmp_path / "out"), weights)
    options = ("--format", "safetensors")
    assert merge("--input_dir", tmp_path / "in", *options, "--output_dir", tmp_path / "st") == 0
    found = load_file(tmp_path / "st" / "model.safetensors")
    assert_same({name: found[name] for name in weights}, weights)


def test_tensors_that_share_a_storage_or_are_views(tmp_path: Path) -> None:
    """torch.save keeps one storage for tensors that share it, and the whole of a sliced one."""
    weights = {name: tensor.half() for name, tensor in random_weights(tiny_config()).items()}
    weights["output.weight"] = weights["tok_embeddings.weight"]
    wide = torch.cat([weights["norm.weight"], torch.ones(100).half()])
    weights["norm.weight"] = wide[:64]
    weights["layers.0.attention.wq.weight"] = weights["layers.0.attention.wq.weight"].t()
    (tmp_path / "in").mkdir()
    write_meta(tmp_path / "in", tiny_config(), {})
    torch.save(weights, tmp_path / "in" / "consolidated.00.pth")
    assert merge("--input_dir", tmp_path / "in", "--output_dir", tmp_path / "out") == 0
    wanted = {name: tensor.contiguous() for name, tensor in weights.items()}
    assert_same(load_merged(tmp_path / "out"), wanted)


def test_tensors_of_many_blocks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.conversion.block_copy.BLOCK_BYTES", 1000)
    monkeypatch.setattr("llama_cpu.conversion.merge.BLOCK_BYTES", 700)
    monkeypatch.setattr("llama_cpu.checkpoint.stored.CHUNK_BYTES", 300)
    write_half(tmp_path / "in", 4)
    assert merge("--input_dir", tmp_path / "in", "--output_dir", tmp_path / "out", "--verify") == 0
    assert_same(load_merged(tmp_path / "out"), joined_by_cat(tmp_path / "in"))
    with zipfile.ZipFile(tmp_path / "out" / "merged.pth") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("zip64", [False, True])
def test_the_file_is_a_zip_that_torch_reads(zip64: bool, tmp_path: Path, monkeypatch) -> None:
    if zip64:  # as if 2 kB were more than 4 GiB
        monkeypatch.setattr("llama_cpu.conversion.pth_writer._ZIP64_FROM", 2000)
    write_half(tmp_path / "in", 2)
    merge("--input_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    path = tmp_path / "out" / "merged.pth"
    done = subprocess.run([sys.executable, "-m", "zipfile", "-t", path], capture_output=True)
    assert done.stdout.split() == [b"Done", b"testing"]
    wanted = joined_by_cat(tmp_path / "in")
    assert_same(torch.load(path, weights_only=True), wanted)
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert_same(mapped, wanted)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values())
    with path.open("rb") as file:
        assert_same(torch.load(file, weights_only=True), wanted)
    assert "data.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()
    open_checkpoint(tmp_path / "out")


def test_params_and_tokenizer_are_copied(tmp_path: Path, capsys) -> None:
    source = write_half(tmp_path / "LLaMA" / "13B", 2)
    (tmp_path / "LLaMA" / "tokenizer.model").write_bytes(b"pieces")
    arguments = ("--input_dir", tmp_path / "LLaMA", "--model-size", "13b", "--force")
    folders = ("--output-dir", tmp_path / "out", "--tokenizer_dir", tmp_path / "tokenizer")
    assert merge(*arguments, *folders) == 0
    assert (tmp_path / "out" / "params.json").read_bytes() == (source / "params.json").read_bytes()
    assert (tmp_path / "tokenizer" / "tokenizer.model").read_bytes() == b"pieces"
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(b"others")
    assert merge(*arguments, *folders) == 0
    assert (tmp_path / "tokenizer" / "tokenizer.model").read_bytes() == b"others"


def test_a_line_of_progress_without_a_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.cli.merge_display._LINE_SECONDS", 0.0)
    monkeypatch.setattr("llama_cpu.cli.merge_display._SAMPLE_SECONDS", 0.0)
    with MergeDisplay(10**10) as display:
        display.begin("Writing")
        display.advance(10**9)
    line = capsys.readouterr().err
    assert "Writing: 1.0 of 10.0 GB" in line
    for figure in ("MB/s", "s left", "MB of memory"):
        assert figure in line


MERGING_TWICE = """
import sys
from llama_cpu.cli.main import merge_main
target, small, large, *options = sys.argv[1:]
for source in (small, large):
    words = ["--input_dir", source, "--output_dir", target, "--tokenizer_dir", target]
    assert merge_main([*words, "--force", *options]) == 0
"""


@pytest.mark.parametrize(
    "options", [[], ["--int8", "--verify"], ["--int4", "--verify"]], ids=["", "int8", "int4"]
)
def test_memory_stays_far_below_the_size(options: list[str], tmp_path: Path) -> None:
    """200 MB of shards add less than 40 MB of anonymous memory to what the program takes anyway."""
    config = tiny_config(dim=2048, n_heads=16, n_kv_heads=16, head_dim=128, hidden_dim=5504)
    folders = [write_half(tmp_path / "small", 2), write_half(tmp_path / "large", 2, config)]
    arguments = [str(path) for path in (tmp_path / "out", *folders)]
    command = [sys.executable, "-c", MERGING_TWICE, *arguments, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    peaks = [int(peak) for peak in re.findall(r"anonymous memory at most (\d+) MB", done.stdout)]
    assert len(peaks) == 2
    assert peaks[1] < min(500, peaks[0] + 40)
