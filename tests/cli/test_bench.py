"""``llama-cpu bench`` on a tiny random model. No test looks at how large a speed is."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cpu.bench import measure
from llama_cpu.bench.worker import Worker, WorkerFailed
from llama_cpu.cli.main import main
from tests.support.checkpoints import random_weights, tiny_config, write_gguf
from tests.support.vocabularies import gguf_vocabulary

LIMITS = {"read": 2e9, "float32": 1e12, "bf16": 1e12, "int8": 4e12}
FAKE_LLAMA_CPP = '''
"""A llama.cpp that computes nothing, with the calls that the worker makes."""
import ctypes, os

__version__ = "0.0"
llama_token = ctypes.c_int32
LOGITS = (ctypes.c_float * 1000)()


class Llama:
    def __init__(self, path, **options):
        assert path.endswith(".gguf")
        self.ctx, self.tokens = self, 0

    def n_vocab(self):
        return 1000


def llama_get_memory(context):
    return context


def llama_memory_seq_rm(memory, sequence, first, last):
    assert first <= memory.tokens
    memory.tokens = first


def llama_batch_get_one(tokens, count):
    return count


def llama_decode(context, count):
    context.tokens += count
    if "CRASH" in os.environ:
        os.abort()
    return 0


def llama_get_logits_ith(context, index):
    return ctypes.cast(LOGITS, ctypes.POINTER(ctypes.c_float))


def llama_model_default_params():
    raise NotImplementedError


class llama_cpp:
    pass
'''


class FakeLimits:
    """Knows the limits of the machine without measuring."""

    about = dict.fromkeys(LIMITS, "a way")

    def ask(self, what: str) -> Any:
        others = {name: speed for name, speed in LIMITS.items() if name != "read"}
        return LIMITS["read"] if what == "read" else others

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = gguf_vocabulary()
    config = tiny_config(vocab_size=len(vocabulary["tokenizer.ggml.tokens"]), context_length=128)
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_gguf(path, config, random_weights(config), vocabulary=vocabulary)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules of the workers that were started; the limits are not measured."""
    modules: list[str] = []

    def start(module: str, options: dict[str, Any]) -> Any:
        modules.append(module.rpartition(".")[2])
        return FakeLimits() if module.endswith("limits_worker") else Worker(module, options)

    monkeypatch.setattr(measure, "Worker", start)
    monkeypatch.setattr(measure, "_LIMITS_BYTES", 0)
    return modules


@pytest.fixture
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else find(name)
    )


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "llama_cpp.py").write_text(FAKE_LLAMA_CPP)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("llama_cpp", None)


@pytest.fixture
def bench(model: Path, started: list[str], capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """What the command writes to standard output, if it ends as it should."""

    def run(*words: str, code: int = 0) -> str:
        options = ["--ckpt_dir", str(model), "--float32", "--rounds", "2", "--threads", "2"]
        assert main(["bench", *options, *words]) == code
        return capsys.readouterr().out

    return run


@pytest.mark.usefixtures("without_llama_cpp")
def test_the_table(bench: Callable[..., str]) -> None:
    lines = bench("--contexts", "20,60").splitlines()
    starts = (
        "processor ", "threads            2", "model              tiny",
        "weight format      float32",
        "KV cache           float32, up to 128 tokens", "product of layers ", "product in place ",
        "speed ", "prefill of 112 tokens ", "decode after 20 tokens ", "decode after 60 tokens ",
        "8 rows after 20 tokens, time relative to 1 row ", "memory ", "weights ",
        "KV cache, 112 of 128 tokens ", "process ", "process, at the peak ",
        "limits of this machine ", "memory reading ", "matrix product in float32 ",
        "matrix product in bf16 ", "matrix product in int8 ",
        "Note: llama.cpp: left out, because the module llama_cpp is not installed.",
    )  # fmt: skip
    shown = [line for line in lines if line]
    assert len(shown) == len(starts)
    for line, start in zip(shown, starts, strict=True):
        assert line.startswith(start), (line, start)
    assert "2.0 GB" in "".join(lines) and "4,000 GFLOP" in "".join(lines)
    assert "llama.cpp" not in "".join(lines[:-1])


@pytest.mark.usefixtures("without_llama_cpp")
def test_json(bench: Callable[..., str]) -> None:
    result = json.loads(bench("--contexts", "20,60", "--json"))
    assert result.keys() == {
        "version", "torch", "processor", "threads", "model", "precision", "memory_mapped",
        "context", "kv_cache_type", "products", "prefill", "decode", "several_rows", "memory",
        "limits", "llama_cpp", "notes", "stopped",
    }  # fmt: skip
    assert result["model"] == "tiny" and result["precision"] == "float32"
    assert result["prefill"]["prompt_tokens"] == 112
    assert len(result["prefill"]["seconds"]) == 2
    assert [each["context"] for each in result["decode"]] == [20, 60]
    for each in result["decode"]:
        assert len(each["seconds"]) == 2 * 16
        assert each["tokens_per_second"] > 0 and each["of_limit"] > 0 and each["ratio"] is None
    assert result["several_rows"].keys() == {"rows", "context", "seconds", "one_row", "relative"}
    assert result["memory"]["peak_rss_bytes"] >= result["memory"]["rss_bytes"] > 0
    assert result["memory"]["kv_cache_used_bytes"] == 2 * 2 * 4 * 16 * 4 * 112
    assert result["limits"]["int8"] == {"per_second": 4e12, "way": "a way"}
    assert result["llama_cpp"] is None and result["stopped"] is False


def test_contexts_are_cut_to_the_models(bench: Callable[..., str]) -> None:
    result = json.loads(bench("--json", "--max_seq_len", "64"))
    assert [each["context"] for each in result["decode"]] == [48]
    assert result["prefill"]["prompt_tokens"] == 48
    assert "64 tokens" in result["notes"][0] and "48" in result["notes"][0]
    assert [each["context"] for each in json.loads(bench("--json"))["decode"]] == [100, 112]
    shortest = json.loads(bench("--json", "--max_seq_len", "16"))
    assert [each["context"] for each in shortest["decode"]] == [8]


@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpp_takes_turns(bench: Callable[..., str], started: list[str]) -> None:
    result = json.loads(bench("--contexts", "20,60", "--json"))
    assert started == ["limits_worker", "llama_cpp_worker"]
    assert result["llama_cpp"] == "llama-cpp-python 0.0" and result["notes"] == []
    for each in (result["prefill"], *result["decode"]):
        assert len(each["llama_cpp_seconds"]) == len(each["seconds"])
        assert each["ratio"] == pytest.approx(
            each["tokens_per_second"] / each["llama_cpp_tokens_per_second"]
        )
    speed, *_ = (line for line in bench("--contexts", "20").splitlines() if "tokens/s" in line)
    assert speed.split()[-2:] == ["llama.cpp", "ratio"]


@pytest.mark.usefixtures("llama_cpp")
def test_a_llama_cpp_that_crashes_is_left_out(
    bench: Callable[..., str], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRASH", "1")
    result = json.loads(bench("--contexts", "20", "--json"))
    # It was also tried without AMX.
    assert started == ["limits_worker", "llama_cpp_worker", "llama_cpp_worker"]
    assert result["llama_cpp"] is None and result["decode"][0]["ratio"] is None
    assert result["notes"][0].startswith("llama.cpp: left out, because it died of SIGABRT")


@pytest.mark.usefixtures("without_llama_cpp")
def test_a_worker_that_fails_later_leaves_the_rest(
    bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FakeLimits, what: str) -> Any:
        raise WorkerFailed("it ended with 1")

    monkeypatch.setattr(FakeLimits, "ask", fail)
    result = json.loads(bench("--contexts", "20", "--json"))
    assert result["limits"] == {} and result["decode"][0]["of_limit"] is None
    assert "limits: left out from here on, because it ended with 1." in result["notes"]


@pytest.mark.usefixtures("without_llama_cpp")
def test_control_c_prints_what_was_measured_so_far(
    bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(self: measure.OurModel, context: int, passes: int) -> list[float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.OurModel, "decode", interrupt)
    result = json.loads(bench("--json", code=130))
    assert result["stopped"] is True and result["decode"] == []
    assert result["prefill"]["tokens_per_second"] > 0
    assert "prefill of 112 tokens" in bench(code=130)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--contexts 100,x", "argument --contexts: 'x' is not a whole number above 0"),
        ("--contexts 0", "argument --contexts: '0' is not a whole number above 0"),
        ("--contexts=", "argument --contexts: '' is not a whole number above 0"),
        ("--rounds 0", "argument --rounds: '0' is not a whole number above 0"),
        ("--temperature 1", "Unknown option '--temperature'"),
    ],
)
def test_bad_options_are_one_line(words: str, said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *words.split()])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_worker_answers_and_fails_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"KeyError: 'prompt'"):
        Worker("llama_cpu.bench.llama_cpp_worker", {})
