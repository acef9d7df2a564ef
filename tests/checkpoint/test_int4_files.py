"""merge_weights.py --int4: what is written, what is loaded from it, and what is refused."""

import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.checkpoint.meta import open_shards
from llama_cpu.conversion.merge import total_bytes, write_model
from llama_cpu.conversion.quantizing import quantized
from llama_cpu.errors import UserError
from llama_cpu.kernels import compiler
from llama_cpu.kernels.linear import FewRows
from llama_cpu.kv_store.fingerprint import fingerprint
from llama_cpu.weights import block_weight, int4_linear
from llama_cpu.weights.as_is import AS_IS
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.block_weight import BlockWeight
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.operations import Product, ProductChoice
from llama_cpu.weights.tables import TABLES
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, read_all, tiny_config, write_meta
from tests.support.engine import greedy, load_tiny
from tests.support.merging import (
    ROOT,
    assert_same,
    joined_by_cat,
    load_merged,
    merge,
    refused,
    write_half,
)
from tests.support.vocabularies import sentencepiece_model

FILES = ["pth", "safetensors"]
MATRIX = "layers.1.attention.wo.weight"
# Rows of 80 numbers have no whole blocks of 32.
UNEVEN = tiny_config(dim=80, head_dim=20, hidden_dim=64)


def written(folder: Path, file_format: str = "pth") -> dict[str, Tensor]:
    """All that is in the file, read by those who made its format."""
    return load_merged(folder) if file_format == "pth" else load_file(folder / "model.safetensors")


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's matrices in float32, by ggml's own rules."""
    result = {}
    for name, tensor in tensors.items():
        plain, _, kind = name.rpartition("_")
        if kind in ("1", "0"):
            plain, kind = name[:-5], name[-4:].upper()
            values = gguf.quants.dequantize(tensor.numpy(), gguf.GGMLQuantizationType[kind])
            result[plain] = torch.from_numpy(values)
        else:
            result[name] = tensor.float()
    return result


@pytest.fixture
def int4_model(tmp_path: Path) -> Path:
    shards = write_half(tmp_path / "shards", 2)
    assert merge("--input_dir", shards, "--int4", "--output_dir", tmp_path / "int4") == 0
    return tmp_path / "int4"


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize("n_shards", [1, 2])
def test_what_is_written(n_shards: int, file_format: str, tmp_path: Path, capsys) -> None:
    shards, output = write_half(tmp_path / "in", n_shards), tmp_path / "out"
    words = ("--input_dir", shards, "--int4", "--format", file_format, "--verify")
    assert merge(*words, "--output_dir", output) == 0
    assert "identical" in capsys.readouterr().out
    source, found = joined_by_cat(shards), written(output, file_format)
    for name, tensor in source.items():
        if tensor.dim() == 1:
            assert torch.equal(found[name], tensor.float())
            continue
        kind, size = ("q8_0", 34) if name in TABLES else ("q4_1", 20)
        rows, columns = tensor.shape
        blocks = found[f"{name}_{kind}"]
        assert blocks.dtype == torch.uint8
        assert blocks.shape == (rows, columns // 32 * size)
    assert len(found) == len(source)
    for name, tensor in widened(found).items():
        error = (tensor - source[name].float()).norm() / source[name].float().norm()
        assert error < (0.01 if name in TABLES else 0.08), name
    assert (output / "params.json").read_bytes() == (shards / "params.json").read_bytes()


@pytest.mark.parametrize("n_shards", [1, 2])
def test_rows_without_whole_blocks_are_bfloat16(n_shards: int, tmp_path: Path) -> None:
    shards = write_half(tmp_path / "in", n_shards, UNEVEN)
    assert merge("--input_dir", shards, "--int4", "--verify", "--output_dir", tmp_path / "out") == 0
    source, found = joined_by_cat(shards), written(tmp_path / "out")
    for name, tensor in source.items():
        if tensor.dim() == 2 and tensor.shape[1] == 80:
            assert torch.equal(found[name], tensor.bfloat16())
    assert "layers.0.feed_forward.w2.weight_q4_1" in found
    from_shards = load_tiny(shards, precision=INT4, mmap=False)
    for precision in (INT4, AS_IS):
        mapped = load_tiny(tmp_path / "out", precision=precision, mmap=True)
        assert mapped.mapped_bytes == mapped.weights_bytes == from_shards.weights_bytes
        assert greedy(mapped, [1, 2, 3], 5) == greedy(from_shards, [1, 2, 3], 5)
    before = written(tmp_path / "out")
    (tmp_path / "out" / "merged.pth").rename(tmp_path / "out" / "consolidated.00.pth")
    words = ("--input_dir", tmp_path / "out", "--int4", "--output_dir", tmp_path / "again")
    assert merge(*words) == 0
    assert_same(written(tmp_path / "again"), before)


def loaded_weights(folder: Path) -> list[Tensor]:
    """The bytes of every matrix as the loader hands them over, in its order."""
    weights = []

    def make(weight):
        # The next weight may pass through the same memory.
        weights.append(weight.blocks.clone())
        return FewRows(weight.matrix, 2)

    class Noting:
        def choose(self, weight_format, shape, threads):
            product = Product("noting", make, in_place=False)
            return ProductChoice(product, product, 1, 1)

    loaded = load_tiny(folder, precision=INT4, mmap=False, operators=Noting())
    embedding = loaded.model.tok_embeddings
    assert isinstance(embedding, BlockWeight)
    return [embedding.blocks, *weights]


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_loader_makes_the_same_of_the_shards(
    dtype: torch.dtype, file_format: str, tmp_path: Path, monkeypatch
) -> None:
    """Bit for bit, and without rounding anything."""
    weights = {name: tensor.to(dtype) for name, tensor in random_weights(tiny_config()).items()}
    weights[MATRIX][3] = 0
    shards, output = write_meta(tmp_path / "in", tiny_config(), weights, 2), tmp_path / "out"
    words = ("--input_dir", shards, "--int4", "--format", file_format)
    assert merge(*words, "--output_dir", output) == 0
    from_shards = loaded_weights(shards)
    monkeypatch.setattr(block_weight, "quantize", lambda *_: pytest.fail("rounded"))
    from_file = loaded_weights(output)
    assert len(from_file) == len(from_shards) > 2
    for one, other in zip(from_file, from_shards, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize("precision", [INT4, AS_IS], ids=str)
def test_all_of_the_file_is_mapped(
    precision: WeightFormat, file_format: str, tmp_path: Path
) -> None:
    shards = write_half(tmp_path / "in", 2)
    words = ("--input_dir", shards, "--int4", "--format", file_format)
    assert merge(*words, "--output_dir", tmp_path / "out") == 0
    mapped = load_tiny(tmp_path / "out", precision=precision, mmap=True)
    copied = load_tiny(tmp_path / "out", precision=precision, mmap=False)
    assert mapped.mapped_bytes == mapped.weights_bytes == copied.weights_bytes
    assert copied.mapped_bytes == 0
    expected = greedy(load_tiny(shards, precision=INT4), [5, 6, 7], 8)
    assert greedy(mapped, [5, 6, 7], 8) == greedy(copied, [5, 6, 7], 8) == expected


def test_in_the_other_precisions(int4_model: Path, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.checkpoint.stored.CHUNK_BYTES", 1000)
    expected = widened(load_merged(int4_model))
    assert_same(read_all(int4_model), expected)
    for precision in (FLOAT32, BF16):
        embedding = load_tiny(int4_model, precision=precision).model.tok_embeddings
        assert isinstance(embedding, Tensor)
        wanted = expected["tok_embeddings.weight"].to(precision.operations.file_dtype)
        assert torch.equal(embedding, wanted)


def test_blocks_smaller_than_a_matrix_and_other_threads(tmp_path: Path, monkeypatch) -> None:
    shards = write_half(tmp_path / "in", 4)
    assert merge("--input_dir", shards, "--int4", "--output_dir", tmp_path / "whole") == 0
    monkeypatch.setattr("llama_cpu.conversion.block_copy.BLOCK_BYTES", 1000)
    monkeypatch.setattr("llama_cpu.conversion.merge.BLOCK_BYTES", 700)
    monkeypatch.setattr("llama_cpu.conversion.quantizing._CHUNK_BYTES", 600)
    monkeypatch.setattr(int4_linear, "physical_cores", lambda: 3)
    words = ("--input_dir", shards, "--int4", "--verify")
    assert merge(*words, "--output_dir", tmp_path / "pieces") == 0
    one, other = (tmp_path / name / "merged.pth" for name in ("whole", "pieces"))
    assert one.read_bytes() == other.read_bytes()


def test_a_file_in_int4_is_taken_as_it_is(int4_model: Path, tmp_path: Path) -> None:
    before = load_merged(int4_model)
    (int4_model / "merged.pth").rename(int4_model / "consolidated.00.pth")
    arguments = ("--input_dir", int4_model, "--output_dir", tmp_path / "again", "--force")
    assert merge(*arguments, "--int4", "--verify") == 0
    assert_same(load_merged(tmp_path / "again"), before)
    assert merge(*arguments, "--fp32", "--verify") == 0
    assert_same(load_merged(tmp_path / "again"), widened(before))


@pytest.mark.parametrize("file_format", FILES)
def test_every_byte_is_counted(file_format: str, tmp_path: Path) -> None:
    tensors = quantized(open_shards(write_half(tmp_path / "in", 2)).tensors, INT4)
    name = {"pth": "merged.pth", "safetensors": "model.safetensors"}[file_format]
    counts: list[int] = []
    total = total_bytes(tensors, torch.float32)
    done = write_model({name: tensors}, b"{}", tmp_path / "out", torch.float32, counts.append)
    sizes = [INT4.nbytes(shape, name) for name, shape in tensor_shapes(tiny_config()).items()]
    assert total == done.size == sum(counts) == sum(sizes)


def test_the_fingerprint_tells_two_roundings_apart(tmp_path: Path) -> None:
    found = set()
    for seed in (0, 1):
        weights = random_weights(tiny_config(), seed)
        shards = write_meta(tmp_path / f"in-{seed}", tiny_config(), weights)
        words = ("--input_dir", shards, "--int4", "--output_dir", tmp_path / str(seed))
        assert merge(*words) == 0
        found.add(fingerprint(open_checkpoint(tmp_path / str(seed))))
    assert len(found) == 2


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 40000.0])
@pytest.mark.parametrize("config", [tiny_config(), UNEVEN], ids=["blocks", "bfloat16"])
def test_numbers_that_cannot_be_rounded(number: float, config, tmp_path: Path, capsys) -> None:
    weights = random_weights(config)
    weights[MATRIX][3, 60] = number
    shards = write_meta(tmp_path / "in", config, weights)
    (tmp_path / "out").mkdir()
    words = ("--input_dir", shards, "--int4")
    if config is UNEVEN and number == 40000:  # bfloat16 holds it
        assert merge(*words, "--output_dir", tmp_path / "out") == 0
        return
    sentence = refused(capsys, tmp_path / "out", *words)
    assert f"'{MATRIX}'" in sentence and "leave out --int4" in sentence


def test_without_kernels(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(compiler, "works", lambda: False)
    (tmp_path / "out").mkdir()
    words = ("--input_dir", write_half(tmp_path / "in", 2), "--int4")
    assert "--int4 needs Numba" in refused(capsys, tmp_path / "out", *words)


def test_split(int4_model: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    words = ("--input_dir", tmp_path / "shards", "--split", 2)
    assert "leave out --int4" in refused(capsys, tmp_path / "out", *words, "--int4")
    words = ("--input_dir", int4_model, "--split", 2)
    assert "is quantised" in refused(capsys, tmp_path / "out", *words)
    assert merge(*words, "--fp32", "--verify", "--output_dir", tmp_path / "out") == 0
    assert_same(joined_by_cat(tmp_path / "out"), widened(load_merged(int4_model)))


def damage(tensors: dict[str, Tensor], how: str) -> str:
    """Name of the tensor that the sentence must name."""
    stored = MATRIX + "_q4_1"
    if how == "plain beside it":
        tensors[MATRIX] = torch.zeros(64, 64)
    elif how == "in both formats":
        tensors[MATRIX + "_q8_0"] = torch.zeros(64, 68, dtype=torch.uint8)
        return MATRIX + "_q8_0"
    elif how == "int8":
        tensors[stored] = tensors[stored].view(torch.int8)
        tensors[stored + "_scale"] = torch.ones(64)
    elif how == "float32":
        tensors[stored] = tensors[stored].float()
    elif how == "half a block":
        tensors[stored] = tensors[stored][:, :-10].clone()
    elif how == "three dimensions":
        tensors[stored] = tensors[stored].unsqueeze(0)
    elif how == "one dimension":
        tensors[stored] = tensors[stored].flatten()
    elif how == "too narrow":
        tensors[stored] = tensors[stored][:, :-20].clone()
        return MATRIX
    elif how == "missing":
        del tensors[stored]
        return MATRIX
    elif how == "bytes without a format":
        tensors[MATRIX] = tensors.pop(stored)
        return MATRIX
    return stored


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize(
    "how",
    [
        "plain beside it", "in both formats", "int8", "float32", "half a block", "one dimension",
        "three dimensions", "too narrow", "missing", "bytes without a format",
    ],
)  # fmt: skip
def test_damage_is_seen_before_loading(how: str, file_format: str, int4_model: Path) -> None:
    tensors = load_merged(int4_model)
    name = damage(tensors, how)
    file = int4_model / "merged.pth"
    if file_format == "pth":
        torch.save(tensors, file)
    else:
        file.unlink()
        file = int4_model / "model.safetensors"
        save_file(tensors, file)
    with pytest.raises(UserError) as error:
        open_checkpoint(int4_model)
    assert f"'{name}'" in str(error.value)
    of_the_file = how not in ("too narrow", "missing", "bytes without a format")
    assert str(file if of_the_file else int4_model) in str(error.value)


@pytest.mark.slow
def test_the_programs_answer_from_the_file(int4_model: Path) -> None:
    (int4_model / "tokenizer.model").write_bytes(sentencepiece_model())
    shared = ["--ckpt_dir", str(int4_model), "--max_gen_len", "5", "--temperature", "0"]
    for words, asked in (
        (["example_cpu.py", "the"], None),
        (["example_chat.py", "--plain", "--no_history"], "the\n"),
    ):
        answers = set()
        for option in ("--mmap", "--no_mmap"):
            command = [sys.executable, *words, *shared, option]
            done = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, done.stderr
            answers.add(done.stdout)
        assert len(answers) == 1 and answers.pop().strip()
