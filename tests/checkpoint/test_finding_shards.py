"""Which folder --model_size and --input_dir mean."""

from pathlib import Path

import pytest

from tests.support.merging import (
    assert_same,
    joined_by_cat,
    load_merged,
    merge,
    refused,
    write_half,
)


def test_no_model_named(output: Path, capsys) -> None:
    assert "--model_size 13B" in refused(capsys, output)


def test_folder_missing_names_what_was_looked_for(output: Path, tmp_path: Path, capsys) -> None:
    sentence = refused(capsys, output, "--model_size", "30B", "--input_dir", tmp_path / "no")
    for folder in ("no/30B", "no/33B", "no/params.json"):
        assert str(Path(folder)) in sentence


def test_default_folders_are_looked_for_in_order(
    output: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refused(capsys, output, "--model_size", "13B")
    assert sentence.index(str(Path("LLaMA/13B"))) < sentence.index(f" {Path('13B/params.json')}")


def test_wrong_size_named(shards: Path, output: Path, capsys) -> None:
    sentence = refused(capsys, output, "--input_dir", shards, "--model_size", "65B")
    assert "holds 2 shards, but 65B has 8" in sentence


@pytest.mark.parametrize("folder", ["LLaMA/30B", "LLaMA/33B", "30B", "33B"])
@pytest.mark.parametrize("size", ["30B", "33B"])
def test_default_places_and_both_names_of_30b(
    folder: str, size: str, tmp_path: Path, monkeypatch
) -> None:
    write_half(tmp_path / folder, 4)
    monkeypatch.chdir(tmp_path)
    assert merge("--model_size", size, "--output_dir", "out") == 0
    assert_same(load_merged(tmp_path / "out"), joined_by_cat(tmp_path / folder))


def test_any_other_name(tmp_path: Path) -> None:
    write_half(tmp_path / "llama-2-13b-chat", 2)
    arguments = ("--input_dir", tmp_path, "--model_size", "llama-2-13b-chat")
    assert merge(*arguments, "--output_dir", tmp_path / "out") == 0


@pytest.mark.parametrize("size", ["8B", "llama-2-13b"])
def test_a_size_that_is_not_there_is_not_another_model(
    size: str, shards: Path, output: Path, capsys
) -> None:
    sentence = refused(capsys, output, "--input_dir", shards, "--model_size", size)
    assert f"no folder {size}" in sentence


def test_width_of_another_size(shards: Path, output: Path, tmp_path: Path, capsys) -> None:
    other = shards.rename(tmp_path / "in" / "other")
    sentence = refused(capsys, output, "--input_dir", other, "--model_size", "13B")
    assert "width 64, but 13B has 5120" in sentence


def test_the_folder_itself_with_its_size(shards: Path, output: Path, tmp_path: Path) -> None:
    words = ("--output_dir", output, "--force")
    for size in ("13B", "13b"):
        assert merge("--input_dir", shards, "--model_size", size, *words) == 0
    other = shards.rename(tmp_path / "in" / "my-8B")
    assert merge("--input_dir", other, "--model_size", "my-8b", *words) == 0
    assert merge("--input_dir", other, *words) == 0


def test_a_known_size_by_shards_and_width(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.cli.merge.SIZES", {"13B": (2, 64)})
    folder = write_half(tmp_path / "llama-2-13b", 2)
    arguments = ("--input_dir", folder, "--model_size", "13B")
    assert merge(*arguments, "--output_dir", tmp_path / "out") == 0
