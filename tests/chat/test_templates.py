"""Chat templates: the named ones, and those that strangers wrote."""

import pytest

from llama_cpu.chat import templates
from llama_cpu.chat.templates import (
    NAMED_TEMPLATES,
    ChatTemplate,
    TemplateRenderer,
    choose_template,
)
from llama_cpu.errors import UserError
from tests.support.engine import ByteTokenizer

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]
EXPECTED = {
    "llama-2": (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello! </s><s>[INST] Bye [/INST]"
    ),
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "chatml": (
        "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "mistral-v1": "<s>[INST] Be kind.\n\nHi [/INST] Hello!</s>[INST] Bye [/INST]",
    "mistral-v3": "<s>[INST] Be kind.\n\nHi[/INST] Hello!</s>[INST] Bye[/INST]",
    "mistral-v3-tekken": "<s>[INST]Be kind.\n\nHi[/INST]Hello!</s>[INST]Bye[/INST]",
    "mistral-v7-tekken": (
        "<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][INST]Hi[/INST]Hello!</s>[INST]Bye[/INST]"
    ),
    "vicuna": "<s>Be kind. USER: Hi ASSISTANT: Hello!</s>USER: Bye ASSISTANT:",
    "alpaca": (
        "<s>Be kind.\n\n### Instruction:\nHi\n\n### Response:Hello!\n\n"
        "### Instruction:\nBye\n\n### Response:"
    ),
    "transcript": (
        "<s>Be kind.\n\nUser: Hello! Can you help me?\n"
        "Assistant: Hello! Of course, what is it about?\n"
        "User: Hi\nAssistant: Hello!\nUser: Bye\nAssistant:"
    ),
}


def render(source: str, messages=MESSAGES) -> str:
    renderer = TemplateRenderer(ChatTemplate("test", source), "<s>", "</s>")
    try:
        conversation = {"messages": messages, "add_generation_prompt": True}
        return renderer.render([conversation])[0]
    finally:
        renderer.close()


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_named_template(name: str) -> None:
    assert render(NAMED_TEMPLATES[name].source) == EXPECTED[name]


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_named_template_without_system_prompt(name: str) -> None:
    text = render(NAMED_TEMPLATES[name].source, MESSAGES[1:2])
    assert "Hi" in text
    assert "None" not in text


def test_what_hugging_face_templates_may_use() -> None:
    assert render("{{ messages | length }}{{ {'a': '<é>'} | tojson }}") == '4{"a": "<é>"}'
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    sorted_json = "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, ensure_ascii=False) }}"
    assert render(sorted_json) == '{"a": 2, "b": 1}'
    assert render("a{% generation %}{{ 'b' }}{% endgeneration %}c") == "abc"
    loop = "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(loop) == "012"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception('only users may speak') }}",
        "{% if %}",
        "{{ 1 // 0 }}",
        "{{ nothing.nowhere }}",
    ],
)
def test_a_template_that_fails_is_one_sentence(source: str) -> None:
    with pytest.raises(UserError, match=r"chat template \(test\) failed") as caught:
        render(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set s = namespace(t='x') %}{% for i in range(60) %}"
        "{% set s.t = s.t ~ s.t %}{% endfor %}",
    ],
    ids=["for ever", "all memory"],
)
def test_a_template_without_end_is_ended(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "RENDER_SECONDS", 2.0)
    with pytest.raises(UserError, match="chat template"):
        render(source)


def test_a_renderer_lives_on_after_a_template_was_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "RENDER_SECONDS", 2.0)
    source = (
        "{% if messages %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}done"
    )
    renderer = TemplateRenderer(ChatTemplate("test", source), "", "")
    with pytest.raises(UserError):
        renderer.render([{"messages": MESSAGES}])
    assert renderer.render([{"messages": []}]) == ["done"]
    renderer.close()


def test_choice_of_template(tmp_path) -> None:
    tokenizer = ByteTokenizer()
    assert choose_template(None, tokenizer, "7B").name == "transcript"
    assert choose_template(None, tokenizer, "7B").guessed
    assert choose_template(None, tokenizer, "llama-2-7b-chat").name == "llama-2"
    assert choose_template(None, tokenizer, "Mistral-7B-Instruct-v0.2").name == "mistral-v1"
    assert choose_template(None, tokenizer, "Mistral-7B-v0.1").name == "transcript"
    tokenizer.special_tokens = {"<|im_start|>": 256}
    assert choose_template(None, tokenizer, "7B").name == "chatml"
    tokenizer.special_tokens = {"[INST]": 256}  # no space before a text: Tekken
    assert choose_template(None, tokenizer, "nemo").name == "mistral-v3-tekken"
    tokenizer.special_tokens = {"[INST]": 256, "[SYSTEM_PROMPT]": 257}
    assert choose_template(None, tokenizer, "small").name == "mistral-v7-tekken"
    tokenizer.special_tokens = {"<|start_header_id|>": 256}
    assert choose_template(None, tokenizer, "8B").name == "llama-3"
    tokenizer.chat_template = "own"
    assert choose_template(None, tokenizer, "8B").source == "own"
    assert not choose_template(None, tokenizer, "8B").guessed
    assert choose_template("vicuna", tokenizer, "8B").name == "vicuna"
    (tmp_path / "mine.jinja").write_text("mine")
    assert choose_template(str(tmp_path / "mine.jinja"), tokenizer, "8B").source == "mine"
    with pytest.raises(UserError, match="the known names are llama-2"):
        choose_template("lama-2", tokenizer, "8B")
