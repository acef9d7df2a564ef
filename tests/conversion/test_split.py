"""One model to shards, and back."""

from pathlib import Path

import pytest
import torch

from llama_cpu.model.config import ModelConfig, RopeScaling
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.merging import assert_same, load_merged, merge, refused, write_half

LLAMA_3 = {
    "3": tiny_config(rope_theta=500_000.0, n_heads=8, head_dim=8),
    "3.1": tiny_config(rope_scaling=RopeScaling(8.0), n_heads=8, head_dim=8),
}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_merge_of_split_is_the_same_bit_for_bit(
    count: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in random_weights(tiny_config()).items()}
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], float("nan"))
    write_meta(tmp_path / "x", tiny_config(), weights, name="merged.pth")
    split, again = tmp_path / "split", tmp_path / "again"
    assert merge("--split", count, "--input_dir", tmp_path / "x", "--output_dir", split) == 0
    assert len(list(split.glob("consolidated.*.pth"))) == count
    assert merge("--input_dir", split, "--output_dir", again, "--verify") == 0
    assert_same(load_merged(again), weights)


def test_shards_of_a_split_are_those_of_meta(tmp_path: Path) -> None:
    write_half(tmp_path / "one", 1)
    write_half(tmp_path / "four", 4)
    merge("--split", 4, "--input_dir", tmp_path / "one", "--output_dir", tmp_path / "split")
    for rank in range(4):
        name = f"consolidated.{rank:02d}.pth"
        wanted = torch.load(tmp_path / "four" / name)
        del wanted["rope.freqs"]
        assert_same(torch.load(tmp_path / "split" / name), wanted)


@pytest.mark.parametrize("config", LLAMA_3.values(), ids=LLAMA_3)
def test_llama_3_is_split_on_the_vocabulary(config: ModelConfig, tmp_path: Path) -> None:
    write_half(tmp_path / "one", 1, config)
    write_half(tmp_path / "four", 4, config, embedding_dim=0)
    arguments = ("--input_dir", tmp_path / "one", "--verify")
    assert merge("--split", 4, *arguments, "--output_dir", tmp_path / "split") == 0
    for rank in range(4):
        name = f"consolidated.{rank:02d}.pth"
        wanted = torch.load(tmp_path / "four" / name)
        del wanted["rope.freqs"]
        assert_same(torch.load(tmp_path / "split" / name), wanted)
    assert merge("--input_dir", tmp_path / "split", "--output_dir", tmp_path / "again") == 0
    wanted = torch.load(tmp_path / "one" / "consolidated.00.pth")
    del wanted["rope.freqs"]
    assert_same(load_merged(tmp_path / "again"), wanted)


@pytest.mark.parametrize("count", [0, -1, 101])
def test_absurd_split(count: int, shards: Path, output: Path, capsys) -> None:
    assert "--split" in refused(capsys, output, "--input_dir", shards, "--split", count)


@pytest.mark.parametrize(
    ("changes", "count", "reason"),
    [
        ({}, 3, "4 heads"),
        ({"n_kv_heads": 1}, 4, "1 key-value head,"),
        ({"n_kv_heads": 2}, 4, "2 key-value heads"),
        ({"hidden_dim": 90}, 4, "'layers.0.feed_forward.w1.weight' has 90 rows"),
    ],
)
def test_split_that_does_not_divide(
    changes: dict, count: int, reason: str, output: Path, tmp_path: Path, capsys
) -> None:
    (output / "merged.pth").unlink()
    whole = write_half(tmp_path / "whole", 1, tiny_config(**changes))
    sentence = refused(capsys, output, "--input_dir", whole, "--split", count)
    assert reason in sentence
    assert f"{count} shards cannot share evenly" in sentence
