"""A format is known in its own files only, and a new one needs nothing but its own file."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llama_cpu
from llama_cpu.cli.main import command_parser
from llama_cpu.loading.memory_estimate import estimate_memory
from llama_cpu.weights import formats
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import FORMATS, format_of, labels, smaller_than
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.operations import Operations, Product
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import greedy, load_tiny

PACKAGE = Path(llama_cpu.__file__).parent
NAMES = {"FLOAT32", "BF16", "INT8", "INT4", "AS_IS"}


def comparisons(source: str) -> list[str]:
    """Comparisons and matches with a format, its label, or a dictionary keyed by labels."""
    found = []
    words = {each.label for each in FORMATS}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            sides = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        for side in (leaf for each in sides for leaf in ast.walk(each)):
            is_label = isinstance(side, ast.Constant) and side.value in words
            is_format = isinstance(side, ast.Name) and side.id in NAMES
            if is_label or is_format:
                found.append(ast.unparse(node))
    return found


def test_the_test_sees_comparisons() -> None:
    assert comparisons("x = 1 if precision is INT8 else 2")
    assert comparisons("if plan.precision.label in ('bf16', 'int8'): pass")
    assert comparisons("SMALLER = {'float32': 'as bf16'}")
    assert not comparisons("x = torch.bfloat16 if dtype == torch.int8 else None")


def test_no_other_file_compares_formats() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name != "weights" and path.name != "machine_speed.py":  # types of products
            assert not comparisons(path.read_text(encoding="utf-8")), path


def test_the_list_needs_no_torch() -> None:
    code = "import sys, llama_cpu.weights.formats as f; print(f.labels(), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "('float32', 'bf16', 'int8', 'int4', 'file') False"


def test_labels_and_sizes() -> None:
    assert [format_of(label) for label in labels()] == list(FORMATS)
    with pytest.raises(ValueError, match="'int2' is none of float32, bf16, int8, int4, file"):
        format_of("int2")
    assert labels(smaller_than(FLOAT32)) == ("bf16", "int8", "int4")
    assert smaller_than(INT8) == [INT4] and smaller_than(INT4) == []
    assert [each.nbytes((10, 96)) for each in FORMATS] == [3840, 1920, 1000, 600, 3840]
    assert [each.nbytes((10, 100)) for each in FORMATS] == [4000, 2000, 1040, 2000, 4000]
    assert INT4.nbytes((10, 96), "output.weight") == 10 * 3 * 34
    assert [each.nbytes((100,)) for each in FORMATS] == [400] * 5
    assert [each.cache_dtype for each in FORMATS] == [torch.float32] + [torch.bfloat16] * 4


# The file of a toy format: bfloat16 values with the last bits cut off.


@dataclass(frozen=True)
class Cut:
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def take_rows(self, ids: Tensor) -> Tensor:
        return self.values[ids].float()


def cut_linear(weight: Cut):
    return lambda x: x @ weight.values.float().T


def convert_cut(stored, new) -> Cut:
    values = new((sum(each.shape[0] for each in stored), stored[0].shape[1]), torch.bfloat16)
    for matrix, piece in zip(stored, values.split([each.shape[0] for each in stored]), strict=True):
        matrix.fill(piece)
    values.view(torch.int16).bitwise_and_(-4)
    return Cut(values)


CUT = WeightFormat(
    label="cut",
    switch="--cut",
    help="a toy",
    merge_switch="--cut",
    merge_help="a toy",
    can_be_split=False,
    matrix_bytes=lambda rows, columns: 2 * rows * columns,
    cache_type="float32",
    load_operations=lambda: Operations(
        products=(Product("plain", cut_linear, in_place=True),),
        mappable=lambda stored: None,
        from_mapped=lambda stored, values, new: Cut(values),
        convert=convert_cut,
        output_product=lambda choice, tied: choice.product,
        make_output=lambda weight, product: product.make(weight),
        file_dtype=torch.bfloat16,
    ),
)


@pytest.mark.parametrize("tied", [False, True])
def test_a_format_is_one_file_and_one_line(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tied_output=tied)
    weights = {
        name: (tensor.bfloat16().view(torch.int16) & -4).view(torch.bfloat16).float()
        if tensor.dim() == 2
        else tensor
        for name, tensor in random_weights(config).items()
    }
    monkeypatch.setattr("llama_cpu.cli.options.FORMATS", (*FORMATS, CUT))  # the one line
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, CUT))
    assert command_parser("chat", "x").parse_args(["--cut"]).precision == "cut"
    assert format_of("cut") is CUT and smaller_than(FLOAT32) == [BF16, INT8, INT4, CUT]
    folder = write_meta(tmp_path, config, weights)
    loaded = load_tiny(folder, precision=CUT)
    assert loaded.weights_bytes == estimate_memory(config, CUT, 512).weights
    assert loaded.mapped_bytes == 4 * sum(t.numel() for t in weights.values() if t.dim() == 1)
    expected = greedy(load_tiny(folder), [1, 2, 3], 16)
    assert greedy(loaded, [1, 2, 3], 16) == expected
