"""The real model: against transformers, in other layouts, and as a chat partner."""

import json
from pathlib import Path
from threading import Event as Flag

import pytest
from transformers import AutoTokenizer

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.generation.events import Prefill
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import plan_loading
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.choice import MeasuredOperators
from llama_cpu.weights.float32 import FLOAT32
from tests.support.checkpoints import read_all, write_hugging_face, write_meta
from tests.support.engine import GREEDY, greedy
from tests.support.reference import greedy_reference, reference_from_gguf

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea,",
    "1, 2, 3, 4, 5,",
]
QUESTIONS = [
    "What is the capital of France?",
    "Write a short poem about the rain.",
    "Wie spät ist es? 😀",
]


@pytest.fixture(scope="module")
def loaded(demo_model: Path) -> LoadedModel:
    plan = plan_loading(demo_model, max_seq_len=1024, precision=FLOAT32)
    return load(plan, lambda *_: None, Flag())


@pytest.fixture(scope="module")
def reference(demo_model: Path):
    return reference_from_gguf(demo_model)


@pytest.fixture(scope="module")
def reference_tokenizer(demo_model: Path):
    return AutoTokenizer.from_pretrained(demo_model.parent, gguf_file=demo_model.name)


def new_session(loaded: LoadedModel, max_gen_len: int = 48) -> ChatSession:
    loaded.cache.reuse([])
    template = choose_template(None, loaded.tokenizer, loaded.plan.name)
    return ChatSession(loaded, template, GREEDY, max_gen_len)


def ask(session: ChatSession, question: str) -> tuple[str, Prefill]:
    session.add_user(question)
    prefill = [event for event in session.answer(Flag()) if isinstance(event, Prefill)]
    return session.messages[-1].text, prefill[-1]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_raw_prompt(prompt: str, loaded: LoadedModel, reference, reference_tokenizer) -> None:
    prompt_ids = loaded.tokenizer.encode_prompt(prompt)
    assert prompt_ids == reference_tokenizer(prompt).input_ids
    assert greedy(loaded, prompt_ids, 48) == greedy_reference(reference, prompt_ids, 48)


@pytest.mark.parametrize("question", QUESTIONS)
def test_chat_prompt(question: str, loaded: LoadedModel, reference, reference_tokenizer) -> None:
    session = new_session(loaded)
    prompt_ids = reference_tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True
    ).input_ids
    ask(session, question)
    session.close()
    expected = greedy_reference(reference, prompt_ids, 48)
    answer = session.messages[-1].token_ids
    assert loaded.cache.token_ids[: len(prompt_ids)] == prompt_ids
    assert answer == expected[: len(answer)]
    assert len(answer) == 48 or expected[len(answer)] in loaded.end_ids


def test_second_question_computes_only_its_own_tokens(loaded: LoadedModel) -> None:
    session = new_session(loaded)
    answer, first = ask(session, "What is the capital of France?")
    assert "Paris" in answer
    in_cache = len(loaded.cache)
    answer, second = ask(session, "And of Germany?")
    session.close()
    assert second.reused == in_cache
    assert second.total < first.total
    assert "Berlin" in answer


@pytest.mark.parametrize("layout", ["meta-3", "safetensors", "bf16"])
def test_other_layouts_give_the_same_ids(
    layout: str, demo_model: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    config = open_checkpoint(demo_model).config
    weights = read_all(demo_model)
    if layout == "safetensors":
        write_hugging_face(tmp_path, config, weights)
    else:
        write_meta(tmp_path, config, weights, n_shards=3 if layout == "meta-3" else 1)
    precision = BF16 if layout == "bf16" else FLOAT32
    # As in one run of the program: other products would round bfloat16 in another way.
    operators = MeasuredOperators()
    plan = plan_loading(
        tmp_path, demo_model, max_seq_len=1024, precision=precision, operators=operators
    )
    if precision is BF16:
        demo_plan = plan_loading(
            demo_model, max_seq_len=1024, precision=precision, operators=operators
        )
        loaded = load(demo_plan, lambda *_: None, Flag())
    other = load(plan, lambda *_: None, Flag())
    here, there = new_session(loaded), new_session(other)
    assert there.template_name == here.template_name
    for question in QUESTIONS:
        ask(here, question)
        ask(there, question)
        assert there.messages[-1].token_ids == here.messages[-1].token_ids
    here.close()
    there.close()


def test_bf16_answers_the_question(demo_model: Path) -> None:
    plan = plan_loading(demo_model, max_seq_len=512, precision=BF16)
    loaded = load(plan, lambda *_: None, Flag())
    float32_bytes = load(
        plan_loading(demo_model, precision=FLOAT32), lambda *_: None, Flag()
    ).weights_bytes
    assert loaded.weights_bytes < 0.51 * float32_bytes
    session = new_session(loaded)
    answer, _ = ask(session, "What is the capital of France?")
    session.close()
    assert "Paris" in answer


def test_generation_config_gives_the_defaults(demo_model: Path, tmp_path: Path) -> None:
    from llama_cpu.chat.open_session import sampling_from
    from llama_cpu.cli.main import command_parser

    config = open_checkpoint(demo_model).config
    write_hugging_face(tmp_path, config, read_all(demo_model))
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"temperature": 0.2, "top_p": 0.9, "eos_token_id": [2, 7]})
    )
    plan = plan_loading(tmp_path, demo_model)
    sampling = sampling_from(plan, command_parser("chat", "x").parse_args(["--top_p", "0.5"]))
    assert (sampling.temperature, sampling.top_p, sampling.min_p) == (0.2, 0.5, 0.0)
    assert load(plan, lambda *_: None, Flag()).end_ids >= {2, 7}
