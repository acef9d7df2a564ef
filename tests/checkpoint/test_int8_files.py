"""merge_weights.py --int8: what is written, what is loaded from it, and what is refused."""

from pathlib import Path

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
from llama_cpu.system.atomic_files import AtomicFiles
from llama_cpu.weights import int8_linear
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.int8_linear import PlainInt8Linear
from llama_cpu.weights.int8_rows import Int8Weight
from llama_cpu.weights.operations import Product, ProductChoice
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, read_all, tiny_config, write_meta
from tests.support.engine import load_tiny
from tests.support.merging import (
    assert_same,
    joined_by_cat,
    leftovers,
    load_merged,
    merge,
    refused,
    write_half,
)

FILES = ["pth", "safetensors"]
MATRIX = "layers.1.attention.wo.weight"


def written(folder: Path, file_format: str) -> dict[str, Tensor]:
    """All that is in the file, read by those who made its format."""
    return load_merged(folder) if file_format == "pth" else load_file(folder / "model.safetensors")


def rounded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What should be in the file, by the rule written down here once more."""
    expected = {}
    for name, tensor in weights.items():
        expected[name] = tensor.float()
        if tensor.dim() == 2:
            scale = tensor.float().abs().amax(dim=1) / 127
            expected[name] = (tensor.float() / scale.unsqueeze(1)).round().to(torch.int8)
            expected[name + "_scale"] = scale
    return expected


def widened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in weights.items():
        if tensor.dim() == 2:
            result[name] = tensor.float() * weights[name + "_scale"].unsqueeze(1)
        elif not name.endswith("_scale"):
            result[name] = tensor
    return result


@pytest.fixture
def int8_model(tmp_path: Path) -> Path:
    shards = write_half(tmp_path / "shards", 2)
    assert merge("--input_dir", shards, "--int8", "--output_dir", tmp_path / "int8") == 0
    return tmp_path / "int8"


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_what_is_written(n_shards: int, file_format: str, tmp_path: Path, capsys) -> None:
    shards, output = write_half(tmp_path / "in", n_shards), tmp_path / "out"
    words = ("--input_dir", shards, "--int8", "--format", file_format, "--verify")
    assert merge(*words, "--output_dir", output) == 0
    assert "identical" in capsys.readouterr().out
    expected = rounded(joined_by_cat(shards))
    found = written(output, file_format)
    assert found.keys() == expected.keys()
    assert_same({name: found[name] for name in expected}, expected)
    assert (output / "params.json").read_bytes() == (shards / "params.json").read_bytes()


def loaded_weights(folder: Path) -> list[Tensor]:
    """Values and scale of every matrix as the loader hands them over, in its order."""
    weights = []

    def make(weight):
        # The next weight may pass through the same memory.
        weights.extend([weight.values.clone(), weight.scale])
        return PlainInt8Linear(weight)

    class Noting:
        def choose(self, weight_format, shape, threads):
            product = Product("noting", make, in_place=False)
            return ProductChoice(product, product, 1, 1)

    loaded = load_tiny(folder, precision=INT8, mmap=False, operators=Noting())
    embedding = loaded.model.tok_embeddings
    assert isinstance(embedding, Int8Weight)
    return [embedding.values, embedding.scale, *weights]


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize("n_shards", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_loader_makes_the_same_of_the_shards(
    dtype: torch.dtype, n_shards: int, file_format: str, tmp_path: Path, monkeypatch
) -> None:
    """Bit for bit, and without quantising anything."""
    weights = {name: tensor.to(dtype) for name, tensor in random_weights(tiny_config()).items()}
    weights[MATRIX][3] = 0  # a row of zeros has the scale 0
    shards, output = write_meta(tmp_path / "in", tiny_config(), weights, n_shards), tmp_path / "out"
    words = ("--input_dir", shards, "--int8", "--format", file_format)
    assert merge(*words, "--output_dir", output) == 0
    from_shards = loaded_weights(shards)
    monkeypatch.setattr(int8_linear, "quantize_rows", lambda *_: pytest.fail("quantised"))
    from_file = loaded_weights(output)
    assert len(from_file) == len(from_shards) > 2
    for one, other in zip(from_file, from_shards, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_in_the_other_precisions(int8_model: Path, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.checkpoint.stored.CHUNK_BYTES", 1000)
    expected = widened(load_merged(int8_model))
    assert_same(read_all(int8_model), expected)
    for precision in (FLOAT32, BF16):
        embedding = load_tiny(int8_model, precision=precision).model.tok_embeddings
        assert isinstance(embedding, Tensor)
        wanted = expected["tok_embeddings.weight"].to(precision.operations.file_dtype)
        assert torch.equal(embedding, wanted)


def test_blocks_smaller_than_a_matrix(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.conversion.block_copy.BLOCK_BYTES", 1000)
    monkeypatch.setattr("llama_cpu.conversion.merge.BLOCK_BYTES", 700)
    monkeypatch.setattr("llama_cpu.conversion.quantizing._CHUNK_BYTES", 600)
    shards = write_half(tmp_path / "in", 4)
    words = ("--input_dir", shards, "--int8", "--verify")
    assert merge(*words, "--output_dir", tmp_path / "out") == 0
    assert_same(load_merged(tmp_path / "out"), rounded(joined_by_cat(shards)))


def test_a_file_in_int8_is_taken_as_it_is(int8_model: Path, tmp_path: Path) -> None:
    before = load_merged(int8_model)
    (int8_model / "merged.pth").rename(int8_model / "consolidated.00.pth")
    arguments = ("--input_dir", int8_model, "--output_dir", tmp_path / "again", "--force")
    assert merge(*arguments, "--int8", "--verify") == 0
    assert_same(load_merged(tmp_path / "again"), before)
    assert merge(*arguments, "--fp32", "--verify") == 0
    assert_same(load_merged(tmp_path / "again"), widened(before))


@pytest.mark.parametrize("file_format", FILES)
def test_every_byte_is_counted(file_format: str, tmp_path: Path) -> None:
    tensors = quantized(open_shards(write_half(tmp_path / "in", 2)).tensors, INT8)
    name = {"pth": "merged.pth", "safetensors": "model.safetensors"}[file_format]
    counts: list[int] = []
    total = total_bytes(tensors, torch.float32)
    done = write_model({name: tensors}, b"{}", tmp_path / "out", torch.float32, counts.append)
    precision = INT8
    shapes = tensor_shapes(tiny_config()).values()
    assert total == done.size == sum(counts) == sum(precision.nbytes(shape) for shape in shapes)
    file_size = (tmp_path / "out" / name).stat().st_size
    assert total < file_size < total + 4096 * len(tensors)


def test_too_little_room(tmp_path: Path, capsys, monkeypatch) -> None:
    """It is asked for a quarter of what --fp32 wants."""
    shards, output = write_half(tmp_path / "in", 2), tmp_path / "out"
    tensors = quantized(open_shards(shards).tensors, INT8)
    needed = total_bytes(tensors, torch.float32) + 4096 * len(tensors)
    for free, code in ((needed - 1, 2), (needed, 0)):
        monkeypatch.setattr(AtomicFiles, "free_bytes", lambda _, free=free: free)
        assert merge("--input_dir", shards, "--int8", "--output_dir", output) == code
    assert "GB free" in capsys.readouterr().err


@pytest.mark.parametrize("spoilt", ["values", "scale"])
def test_verify_finds_a_changed_byte(spoilt: str, tmp_path: Path, capsys, monkeypatch) -> None:
    sync = AtomicFiles.sync
    shards, output = write_half(tmp_path / "in", 2), tmp_path / "out"
    output.mkdir()
    name = MATRIX + ("_scale" if spoilt == "scale" else "")
    data = rounded(joined_by_cat(shards))[name].numpy().tobytes()

    def sync_and_spoil(self: AtomicFiles) -> None:
        sync(self)
        path = next(output.glob("merged.pth.part-*"))
        content = path.read_bytes()
        assert content.count(data) == 1
        path.write_bytes(content.replace(data, data[:-1] + bytes([data[-1] ^ 1])))

    monkeypatch.setattr(AtomicFiles, "sync", sync_and_spoil)
    sentence = refused(capsys, output, "--input_dir", shards, "--int8", "--verify")
    assert f"other values in '{name}'" in sentence
    assert leftovers(output) == []


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_shards_with_numbers_that_have_no_scale(number: float, tmp_path: Path, capsys) -> None:
    weights = random_weights(tiny_config())
    weights[MATRIX][3, 60] = number
    shards = write_meta(tmp_path / "in", tiny_config(), weights, 2)
    (tmp_path / "out").mkdir()
    assert f"'{MATRIX}'" in refused(capsys, tmp_path / "out", "--input_dir", shards, "--int8")


def test_options_that_exclude_each_other(int8_model: Path, tmp_path: Path, capsys) -> None:
    words = ("--input_dir", tmp_path / "shards", "--int8")
    assert "leave out --int8" in refused(capsys, int8_model, *words, "--split", 2)
    for other in ("--bf16", "--fp32"):
        with pytest.raises(SystemExit) as leaving:
            merge(*words, other, "--output_dir", tmp_path / "out")
        assert leaving.value.code == 2
        assert "not allowed with" in capsys.readouterr().err


def test_split_of_a_model_in_int8(int8_model: Path, tmp_path: Path, capsys) -> None:
    words = ("--input_dir", int8_model, "--split", 2)
    (tmp_path / "out").mkdir()
    sentence = refused(capsys, tmp_path / "out", *words)
    assert "is quantised" in sentence
    assert "--bf16" in sentence
    assert merge(*words, "--fp32", "--verify", "--output_dir", tmp_path / "out") == 0
    assert_same(joined_by_cat(tmp_path / "out"), widened(load_merged(int8_model)))


def damage(tensors: dict[str, Tensor], how: str) -> str:
    """Name of the tensor that the sentence must name."""
    scale = MATRIX + "_scale"
    if how == "no scale":
        del tensors[scale]
        return MATRIX
    if how == "no matrix":
        del tensors[MATRIX]
    elif how == "matrix of floats":
        tensors[MATRIX] = tensors[MATRIX].float()
    elif how == "short":
        tensors[scale] = tensors[scale][:-1].clone()
    elif how == "two dimensions":
        tensors[scale] = tensors[scale].unsqueeze(1)
    elif how == "float16":
        tensors[scale] = tensors[scale].half()
    elif how == "matrix of another shape":
        tensors[MATRIX] = tensors[MATRIX][:, :-1].clone()
        return MATRIX
    elif how == "int8 norm":
        tensors["norm.weight"] = tensors["norm.weight"].to(torch.int8)
        return "norm.weight"
    elif how == "unknown":
        tensors["layers.0.more.weight"] = tensors[MATRIX].clone()
        tensors["layers.0.more.weight_scale"] = tensors[scale].clone()
        return "layers.0.more.weight"
    elif how == "scale of a norm":
        tensors["norm.weight_scale"] = torch.ones(64)
        return "norm.weight_scale"
    return scale


def rewrite(folder: Path, tensors: dict[str, Tensor], file_format: str) -> str:
    """Name of the file."""
    if file_format == "pth":
        torch.save(tensors, folder / "merged.pth")
        return "merged.pth"
    (folder / "merged.pth").unlink()
    save_file(tensors, folder / "model.safetensors")
    return "model.safetensors"


@pytest.mark.parametrize("file_format", FILES)
@pytest.mark.parametrize(
    "how",
    [
        "no scale", "no matrix", "matrix of floats", "short", "two dimensions", "float16",
        "matrix of another shape", "int8 norm", "unknown", "scale of a norm",
    ],
)  # fmt: skip
def test_damage_is_seen_before_loading(how: str, file_format: str, int8_model: Path) -> None:
    tensors = load_merged(int8_model)
    name = damage(tensors, how)
    file = rewrite(int8_model, tensors, file_format)
    with pytest.raises(UserError) as error:
        open_checkpoint(int8_model)
    assert f"'{name}'" in str(error.value)
    of_the_pair = how not in ("matrix of another shape", "int8 norm", "unknown")
    assert str(int8_model / (file if of_the_pair else "")) in str(error.value)


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("precision", FORMATS, ids=str)
def test_a_scale_that_is_none(number: float, precision: WeightFormat, int8_model: Path) -> None:
    tensors = load_merged(int8_model)
    tensors[MATRIX + "_scale"][63] = number
    torch.save(tensors, int8_model / "merged.pth")
    with pytest.raises(UserError) as error:
        load_tiny(int8_model, precision=precision)
    assert f"{int8_model / 'merged.pth'}: '{MATRIX}_scale'" in str(error.value)
