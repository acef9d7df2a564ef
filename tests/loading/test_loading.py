"""Where weights end up, what they cost on the way, and what is refused before."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import Protocol, runtime_checkable

import gguf
import pytest
import torch

from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.checkpoint.stored import FileTensor
from llama_cpu.cli.main import command_parser
from llama_cpu.errors import Cancelled, UserError
from llama_cpu.loading.load import load
from llama_cpu.loading.memory_estimate import (
    PROGRAM_BYTES,
    check_fits,
    estimate_memory,
    program_in_memory,
)
from llama_cpu.loading.plan import plan_loading
from llama_cpu.model.transformer import Block
from llama_cpu.weights.as_is import AS_IS
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.int4 import INT4
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.kernel_linear import KernelLinear
from llama_cpu.weights.weight_format import WeightFormat
from tests.support.checkpoints import (
    LLAMA_7B,
    random_weights,
    read_all,
    tiny_config,
    write_gguf,
    write_hugging_face,
    write_meta,
)
from tests.support.engine import load_tiny, make_plan
from tests.support.vocabularies import write_tokenizer_json

GIB = 1 << 30


@runtime_checkable
class HasWeight(Protocol):
    """A product or a norm that computes with its weight as it was loaded."""

    weight: torch.Tensor


def resident_weights(folder: Path, precision: WeightFormat = FLOAT32) -> dict[str, torch.Tensor]:
    loaded = load_tiny(folder, precision=precision, mmap=True)
    embeddings, block = loaded.model.tok_embeddings, next(iter(loaded.model.blocks))
    assert isinstance(embeddings, torch.Tensor) and isinstance(block, Block)
    wo, norm = block.attention.wo, block.attention_norm
    assert isinstance(norm, HasWeight)
    wo_weight = wo.matrix.values if isinstance(wo, KernelLinear) else getattr(wo, "weight", None)
    assert isinstance(wo_weight, torch.Tensor)
    return {"tok_embeddings": embeddings, "wo": wo_weight, "norm": norm.weight}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_meta_weights_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    config = tiny_config()
    stored = {name: tensor.to(dtype) for name, tensor in random_weights(config).items()}
    write_meta(tmp_path, config, stored, n_shards=2)
    for precision in (FLOAT32, BF16):
        wanted = precision.operations.file_dtype
        weights = resident_weights(tmp_path, precision)
        assert weights["norm"].dtype == torch.float32
        assert weights["wo"].dtype == wanted
        expected = stored["layers.0.attention.wo.weight"].to(wanted)
        assert torch.equal(weights["wo"], expected)
        embedding = stored["tok_embeddings.weight"].to(wanted)
        assert torch.equal(weights["tok_embeddings"], embedding)


@pytest.mark.parametrize("layout", ["meta", "safetensors", "bin", "gguf"])
@pytest.mark.parametrize("precision", [FLOAT32, BF16])
def test_the_wanted_type_is_mapped_and_not_copied(
    layout: str, precision: WeightFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    weights = {
        name: tensor.to(precision.operations.file_dtype)
        for name, tensor in random_weights(config).items()
    }
    if layout == "meta":
        path = write_meta(tmp_path, config, weights)
    elif layout == "gguf":
        types = gguf.GGMLQuantizationType
        kind = types.BF16 if precision is BF16 else types.F32
        path = write_gguf(tmp_path / "model.gguf", config, weights, kind)
    else:
        path = write_hugging_face(tmp_path, config, weights, suffix=layout)
    filled = []
    fill = FileTensor.fill

    def noting(self: FileTensor, target: torch.Tensor) -> None:
        filled.append(self.shape)
        fill(self, target)

    monkeypatch.setattr(FileTensor, "fill", noting)
    resident_weights(path, precision)
    assert all(len(shape) == 1 for shape in filled)  # at most norms, which are float32 always


QUANTIZATIONS = [
    kind
    for kind in gguf.GGMLQuantizationType
    if kind.name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0")
]


@pytest.mark.parametrize("kind", QUANTIZATIONS, ids=lambda kind: kind.name)
def test_quantized_gguf(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    """Every type that the library can also write."""
    config = tiny_config(dim=256, n_heads=4, n_kv_heads=4, head_dim=64, hidden_dim=256)
    weights = random_weights(config)
    path = write_gguf(tmp_path / "model.gguf", config, weights, kind)
    for name, tensor in read_all(path).items():
        if tensor.dim() == 1:
            expected = weights[name]
        else:
            raw = gguf.quants.quantize(weights[name].numpy(), kind)
            expected = torch.from_numpy(gguf.quants.dequantize(raw, kind))
        assert torch.equal(tensor, expected), name


def test_every_type_that_the_library_dequantises(tmp_path: Path) -> None:
    """Random blocks of each type, read in several chunks, against the library's own result."""
    from llama_cpu.checkpoint import stored
    from llama_cpu.checkpoint.gguf import QuantizedTensor
    from llama_cpu.checkpoint.stored import MappedFile

    checked = 0
    generator = torch.Generator().manual_seed(0)
    for kind, (block, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        rows, columns = 40, 2 * block
        size = rows * 2 * block_bytes
        raw = torch.randint(0, 60, (size,), dtype=torch.uint8, generator=generator).numpy()
        try:
            expected = gguf.quants.dequantize(raw.reshape(rows, -1), kind)
        except NotImplementedError:
            continue
        path = tmp_path / kind.name
        path.write_bytes(b"\0" * 32 + raw.tobytes())
        target = torch.empty(rows, columns)
        tensor = QuantizedTensor(MappedFile(path), 32, (rows, columns), kind)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored, "CHUNK_BYTES", 16 * columns * 7)
            tensor.fill(target)
        torch.testing.assert_close(
            target, torch.from_numpy(expected).float(), rtol=0, atol=0, equal_nan=True
        )
        checked += 1
    assert checked > 20


_PEAK_OF_LOADING = """
import sys
from pathlib import Path
from threading import Event
from llama_cpu.loading.load import load
from llama_cpu.loading.plan import plan_loading
from llama_cpu.system.memory import memory_report
from llama_cpu.weights.formats import format_of
precision = format_of(sys.argv[3])
plan = plan_loading(Path(sys.argv[1]), Path(sys.argv[2]), max_seq_len=4096, precision=precision)
before = memory_report().resident
loaded = load(plan, lambda *_: None, Event())
print(memory_report().peak - before, loaded.weights_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak from Linux")
@pytest.mark.parametrize(
    ("layout", "precision"),
    [("gguf", "float32"), ("gguf", "int8"), ("meta, 3 shards of float16", "bf16")],
)
def test_loading_takes_little_more_than_the_weights(
    layout: str, precision: str, demo_model: Path, tmp_path: Path
) -> None:
    path = demo_model
    if layout != "gguf":
        config = open_checkpoint(demo_model).config
        weights = {name: tensor.half() for name, tensor in read_all(demo_model).items()}
        path = write_meta(tmp_path, config, weights, n_shards=3)
    command = [sys.executable, "-c", _PEAK_OF_LOADING, str(path), str(demo_model), precision]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    grown, weights_bytes = map(int, printed.split())
    # Most of the 300 MB beyond, for the interpreter and PyTorch, were there before; code that is
    # first used now (oneDNN's) is not.
    assert grown <= 1.05 * weights_bytes + 70e6


def test_loading_can_be_interrupted(tmp_path: Path) -> None:
    config = tiny_config()
    write_meta(tmp_path, config, random_weights(config))
    stop = Flag()
    seen = []

    def on_progress(done: int, total: int, name: str) -> None:
        seen.append((done, total, name))
        if len(seen) == 5:
            stop.set()

    plan = make_plan(tmp_path, max_seq_len=64)
    with pytest.raises(Cancelled):
        load(plan, on_progress, stop)
    assert len(seen) == 5
    assert all(done <= total for done, total, _ in seen)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", FORMATS, ids=str)
def test_the_forecast_counts_what_is_loaded(
    precision: WeightFormat, tied: bool, tmp_path: Path
) -> None:
    config = tiny_config(tied_output=tied)
    write_hugging_face(tmp_path, config, random_weights(config))
    for mmap in (None, True, False):
        loaded = load_tiny(tmp_path, precision=precision, mmap=mmap)
        plan = loaded.plan
        assert plan.checkpoint.config.tied_output == tied
        counted = estimate_memory(config, precision, plan.max_seq_len, plan.products).weights
        assert loaded.weights_bytes == counted


def test_forecast_of_7b() -> None:
    in_float32 = estimate_memory(LLAMA_7B, FLOAT32, 2048)
    assert in_float32.weights == pytest.approx(6_738_415_616 * 4, rel=0.001)
    assert in_float32.kv_cache == 32 * 2 * 4096 * 2048 * 4
    in_bf16 = estimate_memory(LLAMA_7B, BF16, 2048)
    assert in_bf16.weights == pytest.approx(in_float32.weights / 2, rel=0.001)
    in_int8 = estimate_memory(LLAMA_7B, INT8, 2048)
    assert in_int8.weights == pytest.approx(in_float32.weights / 4, rel=0.002)
    assert in_int8.kv_cache == in_bf16.kv_cache
    small_cache = estimate_memory(LLAMA_7B, INT8, 2048, kv_int8=True)
    assert small_cache.weights == in_int8.weights
    assert small_cache.kv_cache == 32 * 2 * 32 * 2048 * (128 + 4)
    # Attention reads the keys and values of one layer in float32.
    assert small_cache.working == in_int8.working + 2 * 2048 * 4096 * 4


@pytest.mark.parametrize(
    ("available", "advice"),
    [
        (20 * GIB, "--bf16 would make it fit"),
        (int(13.3 * GIB), "--int8 would make it fit"),
        (int(7.1 * GIB), "--int4 would make it fit"),
        (int(26.2 * GIB), "--bf16 would make it fit"),
        (int(4.8 * GIB), "--int4 --max_seq_len 512 would make it fit"),
        (2 * GIB, "take a smaller model"),
    ],
)
def test_what_does_not_fit_is_told_what_would(available: int, advice: str) -> None:
    with pytest.raises(UserError, match="too little") as caught:
        check_fits(LLAMA_7B, FLOAT32, 2048, available)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("available", "advice"),
    [
        (int(5.3 * GIB), "little; --kv_int8 would make it fit"),
        (int(5.0 * GIB), "little; --max_seq_len 1024 would make it fit"),
        (int(4.5 * GIB), "little; --kv_int8 --max_seq_len 256 would make it fit"),
    ],
)
def test_a_smaller_cache_is_advised_where_weights_cannot_be_smaller(
    available: int, advice: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_fits(LLAMA_7B, INT4, 2048, available)
    assert advice in str(caught.value)
    with pytest.raises(UserError) as caught:
        check_fits(LLAMA_7B, INT4, 2048, int(4.9 * GIB), kv_int8=True)
    assert "little; --max_seq_len 1024 would" in str(caught.value)


def test_advice_counts_weights_as_the_file_has_them(tmp_path: Path) -> None:
    config = tiny_config(n_layers=24)
    path = write_gguf(
        tmp_path / "m.gguf", config, random_weights(config), gguf.GGMLQuantizationType.Q8_0
    )
    tensors = open_checkpoint(path).tensors
    fits = estimate_memory(config, AS_IS, 4096, kv_int8=True, tensors=tensors).total
    with pytest.raises(UserError, match="little; --kv_int8 would make it fit"):
        check_fits(config, AS_IS, 4096, fits, tensors=tensors)


def test_the_plan_keeps_the_type_of_the_cache(demo_model: Path) -> None:
    assert plan_loading(demo_model, precision=BF16).cache_dtype is torch.bfloat16
    plan = plan_loading(demo_model, precision=BF16, kv_int8=True, draft_ckpt_dir=demo_model)
    assert plan.cache_dtype is torch.int8
    assert plan.draft is not None and plan.draft.kv_int8


def test_what_fits_is_let_through() -> None:
    check_fits(LLAMA_7B, FLOAT32, 2048, 32 * GIB)
    check_fits(LLAMA_7B, BF16, 2048, 16 * GIB)


def test_the_program_is_not_counted_twice() -> None:
    """What the process has allocated is missing from the available memory already."""
    whole = estimate_memory(LLAMA_7B, INT8, 2048)
    rest = estimate_memory(LLAMA_7B, INT8, 2048, present=100 << 20)
    assert whole.total - rest.total == whole.working - rest.working == 100 << 20
    check_fits(LLAMA_7B, INT8, 2048, rest.total, present=100 << 20)
    with pytest.raises(UserError, match="which is 100 MiB too little"):
        check_fits(LLAMA_7B, INT8, 2048, rest.total)
    # Another model that is loaded does not make this one smaller.
    least = estimate_memory(LLAMA_7B, INT8, 2048, present=PROGRAM_BYTES)
    assert estimate_memory(LLAMA_7B, INT8, 2048, present=50 * GIB) == least
    assert least.working > 0


def test_the_program_in_memory() -> None:
    assert 20 << 20 < program_in_memory() <= PROGRAM_BYTES


def test_a_plan_subtracts_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    write_hugging_face(tmp_path, config, random_weights(config))
    write_tokenizer_json(tmp_path)
    estimate = estimate_memory(config, FLOAT32, 64, present=200 << 20)
    monkeypatch.setattr("llama_cpu.loading.plan.program_in_memory", lambda: 200 << 20)
    monkeypatch.setattr("llama_cpu.loading.plan.available_memory", lambda: estimate.total)
    plan_loading(tmp_path, max_seq_len=64)
    monkeypatch.setattr("llama_cpu.loading.plan.available_memory", lambda: estimate.total - 1)
    with pytest.raises(UserError, match="too little"):
        plan_loading(tmp_path, max_seq_len=64)


def test_kv_cache_is_touched_only_as_it_is_used() -> None:
    from llama_cpu.model.kv_cache import KVCache
    from llama_cpu.system.memory import memory_report

    config = tiny_config(n_layers=32, n_heads=32, n_kv_heads=32, head_dim=128)
    before = memory_report().anonymous
    cache = KVCache(config, 4096, torch.float32)  # 4 GiB
    for layer in cache.layers(10):
        layer.store(torch.ones(10, 64, 128))
    assert cache.nbytes == 4 * GIB
    assert memory_report().anonymous - before < 64 << 20


def test_context_is_bounded_by_what_the_model_was_trained_for(
    demo_model: Path, tmp_path: Path
) -> None:
    assert plan_loading(demo_model).max_seq_len == 4096
    assert plan_loading(demo_model, max_seq_len=8192).max_seq_len == 8192
    with pytest.raises(UserError, match="8192"):
        plan_loading(demo_model, max_seq_len=8193)


def test_llama_families_are_told_apart_by_params_json() -> None:
    from llama_cpu.model.llama import config_from_meta

    def context_and_factor(**params) -> tuple:
        base = {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, "vocab_size": -1}
        config = config_from_meta(base | params, Path("params.json"), 11008, 32000, False)
        scaling = config.rope_scaling
        return config.context_length, scaling.factor if scaling else None

    assert context_and_factor(norm_eps=1e-6) == (2048, None)  # LLaMA 1
    assert context_and_factor(n_layers=80) == (2048, None)  # 65B
    assert context_and_factor() == (4096, None)  # Llama 2
    assert context_and_factor(n_layers=80, n_kv_heads=8) == (4096, None)  # 70B
    assert context_and_factor(rope_theta=1e6) == (16384, None)  # Code Llama
    assert context_and_factor(rope_theta=5e5) == (8192, None)  # Llama 3
    assert context_and_factor(rope_theta=5e5, use_scaled_rope=True) == (131072, 8.0)  # 3.1
    scaled = {"dim": 2048, "rope_theta": 5e5, "use_scaled_rope": True}
    assert context_and_factor(**scaled) == (131072, 32.0)  # 3.2 1B


def test_rope_parameters_of_transformers_5() -> None:
    """transformers 5 writes theta and scaling in one object, transformers 4 in two."""
    from llama_cpu.model.llama import config_from_hugging_face
    from llama_cpu.system.fields import Fields
    from tests.support.checkpoints import hugging_face_config

    old = hugging_face_config(tiny_config(rope_theta=500_000.0))
    new = dict(old)
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": new.pop("rope_theta")}
    file = Path("config.json")
    of_new = config_from_hugging_face(Fields(json.loads(json.dumps(new)), file))
    assert of_new == config_from_hugging_face(Fields(old, file))


@pytest.mark.skipif(sys.platform == "win32", reason="sparse files are not the default there")
def test_a_file_larger_than_the_memory_can_be_opened(tmp_path: Path) -> None:
    from llama_cpu.checkpoint.stored import MappedFile
    from llama_cpu.system.memory import total_memory

    path = tmp_path / "sparse"
    size = 4 * total_memory()
    with path.open("wb") as file:
        file.truncate(size)
    tensor = MappedFile(path).tensor(size - 4096, (1024,), torch.float32)
    assert float(tensor.sum()) == 0.0


def test_do_sample_false_is_greedy(demo_model: Path) -> None:
    from llama_cpu.chat.open_session import sampling_from

    plan = replace(plan_loading(demo_model), generation_config={"do_sample": False})
    parse = command_parser("chat", "x").parse_args
    assert sampling_from(plan, parse([])).temperature == 0.0
    assert sampling_from(plan, parse(["--temperature", "1"])).temperature == 1.0
