"""What the user may write, which files are chosen, and the list of models to begin with."""

from pathlib import Path

import pytest

from llama_cpu.errors import UserError
from llama_cpu.hub.choice import choose_files, quantization_of
from llama_cpu.hub.places import hub_cache
from llama_cpu.hub.reference import EXAMPLE, Reference, parse_reference
from llama_cpu.hub.starters import starters


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("org/Some.Model-1B_x", Reference("org/Some.Model-1B_x")),
        ("org/Some-GGUF:Q4_K_M", Reference("org/Some-GGUF", "Q4_K_M")),
        ("hf.co/org/m:q8_0", Reference("org/m", "q8_0")),
        ("https://huggingface.co/org/m/", Reference("org/m")),
        (f" {EXAMPLE}\n", Reference(*EXAMPLE.split(":"))),
    ],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "a/b/c",
        "../b",
        "a/..",
        "a/b:",
        "a/b:c/d",
        "a/b c",
        "a\x1b/b",
        "-a/b",
        "a/b--c",
        "ä/b",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UserError, match="write ORG/REPO"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-1.7b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Mistral-7B-Instruct-v0.3.Q5_K_S.gguf", "Q5_K_S"),
        ("Qwen3-0.6B-UD-IQ1_S.gguf", "UD-IQ1_S"),
        ("m-IQ4_XS.gguf", "IQ4_XS"),
        ("m-IQ4_NL.gguf", "IQ4_NL"),
        ("m-IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-Q6_K.gguf", "Q6_K"),
        ("m-Q4_0.gguf", "Q4_0"),
        ("m-bf16.gguf", "BF16"),
        ("m.fp16.gguf", "F16"),
        ("Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0"),
        ("Q8_0/m.gguf", "Q8_0"),
        ("Q3-model.gguf", ""),
    ],
)
def test_quantizations(name: str, quantization: str) -> None:
    assert quantization_of(name) == quantization


def chosen(*names: str, quantization: str = "") -> tuple[str, ...]:
    return choose_files(names, Reference("o/r", quantization)).names


def test_the_usual_quantization_or_the_nearest() -> None:
    assert chosen("m-Q2_K.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf") == ("m-Q4_K_M.gguf",)
    assert chosen("m-Q2_K.gguf", "m-Q8_0.gguf", "m-F16.gguf") == ("m-Q8_0.gguf",)
    assert chosen("mmproj-m-Q4_K_M.gguf", "m-imatrix.gguf", "only.gguf") == ("only.gguf",)
    note = choose_files(["m-Q2_K.gguf", "m-Q8_0.gguf"], Reference("o/r")).note
    assert note == "There is no Q4_K_M, so Q8_0 is taken of: Q2_K, Q8_0."
    assert choose_files(["m-Q8_0.gguf"], Reference("o/r")).note == ""


def test_quantizations_by_name() -> None:
    names = ("m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "odd.gguf", "model.safetensors", "config.json")
    assert chosen(*names, quantization="q4_k_xl") == ("m-UD-Q4_K_XL.gguf",)
    assert chosen(*names, quantization="UD-Q4_K_XL") == ("m-UD-Q4_K_XL.gguf",)
    assert chosen(*names, quantization="odd") == ("odd.gguf",)
    with pytest.raises(UserError, match=r"no Q9; there are: Q4_K_M, UD-Q4_K_XL, odd\.gguf\."):
        chosen(*names, quantization="Q9")


def test_split_files() -> None:
    parts = [f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert chosen(*parts, "m-Q6_K.gguf") == ("m-Q6_K.gguf",)
    for quantization in ("", "Q8_0"):
        with pytest.raises(UserError, match="gguf-split"):
            chosen(*parts, quantization=quantization)


def test_folders() -> None:
    names = ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "README.md")
    assert chosen(*names) == ("config.json", "tokenizer.json", "model.safetensors")
    with pytest.raises(UserError, match="leave ':Q4_K_M' off"):
        chosen(*names, quantization="Q4_K_M")
    with pytest.raises(UserError, match=r"no config\.json"):
        chosen("model.safetensors")
    mistral = ("config.json", "consolidated.safetensors", "model-00001-of-00001.safetensors")
    assert chosen(*mistral) == (mistral[0], mistral[2])


def test_what_is_never_downloaded() -> None:
    with pytest.raises(UserError, match="only pickled weights"):
        chosen("config.json", "pytorch_model.bin")
    with pytest.raises(UserError, match="no GGUF or safetensors"):
        chosen("README.md")


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    for name, value, cache in (
        ("XDG_CACHE_HOME", "/x", "/x/huggingface/hub"),
        ("HF_HOME", "/h", "/h/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
        ("HF_HUB_CACHE", "$HOME/c", str(Path.home() / "c")),
    ):
        monkeypatch.setenv(name, value)
        assert hub_cache() == Path(cache)


def test_the_models_to_begin_with() -> None:
    models = starters()
    assert len({model.name for model in models}) == len(models) == 9
    assert [model.bytes for model in models] == sorted(model.bytes for model in models)
    for model in models:
        assert parse_reference(str(model.reference)) == model.reference
        assert model.bytes < model.memory < 3 * model.bytes + (1 << 30)
        assert model.licence in ("Apache-2.0", "Llama 3.2")
