"""Weights that are used where they lie in the files: which, what the plan says, read-ahead."""

from pathlib import Path
from threading import Event as Flag

import pytest

from llama_cpu.cli.main import command_parser
from llama_cpu.loading.plan import LoadPlan, plan_from_arguments
from llama_cpu.weights.as_is import AS_IS
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import load_tiny
from tests.support.merging import merge
from tests.support.operators import FixedOperators
from tests.support.vocabularies import sentencepiece_model


def test_mapped_weights_are_told_from_copied_ones(tmp_path: Path) -> None:
    config = tiny_config()
    write_meta(tmp_path, config, random_weights(config))
    loaded = load_tiny(tmp_path)
    assert loaded.mapped_bytes == loaded.weights_bytes
    in_bf16 = load_tiny(tmp_path, precision=BF16, mmap=True)
    norms = (2 * config.n_layers + 1) * config.dim * 4
    assert in_bf16.mapped_bytes == norms
    assert in_bf16.weights_bytes == (loaded.weights_bytes - norms) // 2 + norms


@pytest.mark.parametrize("precision", FORMATS, ids=str)
def test_mapped_and_copied_weights_give_the_same(precision: WeightFormat, tmp_path: Path) -> None:
    """Rounded otherwise at the most: sums in another order; in int8 activations of a few rows."""
    config = tiny_config()
    weights = random_weights(config)
    if precision in (INT8, INT4):
        words = ("--input_dir", write_meta(tmp_path / "in", config, weights))
        assert merge(*words, precision.merge_switch, "--output_dir", tmp_path) == 0
    else:
        weights = {
            name: weight.to(precision.operations.file_dtype) for name, weight in weights.items()
        }
        write_meta(tmp_path, config, weights)
    mapped = load_tiny(tmp_path, precision=precision, mmap=True)
    copied = load_tiny(tmp_path, precision=precision, mmap=False)
    norms = (2 * config.n_layers + 1) * config.dim * 4
    assert mapped.weights_bytes == copied.weights_bytes
    assert mapped.mapped_bytes > 0.9 * (mapped.weights_bytes - norms)
    assert copied.mapped_bytes == 0
    for ids in ([5], [7, 8, 9], list(range(40))):  # one row, several, many
        here, there = (loaded.model.forward(ids, loaded.cache) for loaded in (mapped, copied))
        assert (here - there).norm() < 0.03 * there.norm()


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model())
    return path


def another(precision: WeightFormat) -> WeightFormat:
    return BF16 if precision is FLOAT32 else FLOAT32


def test_the_plan_maps_what_is_multiplied_in_place(tmp_path: Path, vocabulary: Path) -> None:
    config, files = tiny_config(), {}
    for precision in (FLOAT32, BF16):
        dtype, weights = precision.operations.file_dtype, random_weights(config)
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        files[precision] = write_meta(tmp_path / precision.label, config, weights)
    files[INT8] = tmp_path / "int8"
    words = ("--input_dir", files[BF16], "--int8", "--output_dir")
    assert merge(*words, files[INT8]) == 0

    def plan(
        precision: WeightFormat,
        product: str,
        *options: str,
        of: WeightFormat | None = None,
        draft: WeightFormat | None = None,
    ) -> LoadPlan:
        """Without ``draft``, nothing of the draft's files is in the precision."""
        draft = draft or another(precision)
        words = ["--ckpt_dir", str(files[of or precision]), precision.switch, *options]
        words += ["--tokenizer_path", str(vocabulary), "--draft_ckpt_dir", str(files[draft])]
        operators = FixedOperators(**{precision.label: product})
        return plan_from_arguments(command_parser("chat", "x").parse_args(words), operators)

    for precision in (FLOAT32, BF16, INT8):
        assert plan(precision, "plain").mmap
        assert not plan(precision, "plain", "--no_mmap").mmap
        for product in ("packed", "plain"):
            in_place = product == "plain"
            chosen = plan(precision, product)
            assert chosen.mmap is in_place
            assert chosen.products.product.name == product
            mapped = plan(precision, product, "--mmap")
            assert mapped.mmap and mapped.products.product.name == "plain"
            assert mapped.draft is not None
            # Nothing of these files is as it is wanted, so that there is nothing to map.
            other = another(precision)
            assert plan(precision, product, "--mmap", of=other).products.product.name == product
            assert not mapped.draft.mmap
            # Nor does what the model's files have decide for the draft's.
            beside = plan(precision, product, "--mmap", of=other, draft=precision)
            assert beside.draft is not None and beside.draft.mmap and not beside.mmap


def test_the_format_and_the_mapping_of_an_int4_file(tmp_path: Path, vocabulary: Path) -> None:
    config = tiny_config()
    words = ("--input_dir", write_meta(tmp_path / "in", config, random_weights(config)))
    assert merge(*words, "--int4", "--output_dir", tmp_path / "int4") == 0

    def plan(*options: str, folder: Path = tmp_path / "int4") -> LoadPlan:
        words = ["--ckpt_dir", str(folder), "--tokenizer_path", str(vocabulary), *options]
        products = dict.fromkeys(("int4", "file"), "kernel")
        operators = FixedOperators(**products, float32="plain")
        return plan_from_arguments(command_parser("chat", "x").parse_args(words), operators)

    assert plan().precision is AS_IS and plan().mmap
    assert plan("--int4").precision is INT4 and plan("--int4").mmap
    assert not plan("--no_mmap").mmap
    assert not plan("--float32", "--mmap").mmap  # nothing in the file is float32 but the norms
    in_shards = plan(folder=tmp_path / "in")
    assert in_shards.precision is FLOAT32


def test_mapped_weights_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in the order of the disk, and only what the file has."""
    from llama_cpu.checkpoint import stored

    asked: list[tuple[int, int]] = []
    done = Flag()

    def note(file, start: int, length: int) -> None:
        asked.append((start, length))
        if sum(length for _, length in asked) == loaded_bytes:
            done.set()

    monkeypatch.setattr(stored, "read_ahead", note)
    monkeypatch.setattr(stored, "CHUNK_BYTES", 4096)
    config = tiny_config()
    folder = write_meta(tmp_path, config, random_weights(config))
    size = (folder / "consolidated.00.pth").stat().st_size
    loaded_bytes = sum(tensor.nbytes for tensor in random_weights(config).values())
    loaded = load_tiny(folder)
    assert done.wait(10)
    assert loaded.mapped_bytes == loaded_bytes
    assert all(0 < length <= 4096 and start + length <= size for start, length in asked)
    assert asked == sorted(asked)
