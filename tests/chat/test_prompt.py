"""Prompt ids of the model families against transformers and mistral-common; thinking in turns."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mistral_common
import pytest
import tokenizers
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from llama_cpu.chat.prompt import Message, build_prompt
from llama_cpu.chat.templates import (
    NAMED_TEMPLATES,
    ChatTemplate,
    TemplateRenderer,
    choose_template,
)
from llama_cpu.errors import UserError
from llama_cpu.tokenization import Tokenizer
from llama_cpu.tokenization.gguf import gguf_tokenizer
from llama_cpu.tokenization.hugging_face import HuggingFaceTokenizer
from llama_cpu.tokenization.sentencepiece import SentencePieceTokenizer
from llama_cpu.tokenization.tekken import TekkenTokenizer
from tests.support.chat_templates import (
    DEEPSEEK,
    MISTRAL_TEKKEN,
    MISTRAL_V3,
    QWEN3_CONTENT,
    QWEN3_OPENED,
    QWEN3_REASONING,
    QWEN25,
    SMOLLM3,
)
from tests.support.reference import templated
from tests.support.vocabularies import gguf_vocabulary_of, id_of, trained_tokenizer

LIBRARY = trained_tokenizer()
TEXTS = ["Hello /no_think", "naïve 漢字 12345?", "  it's\n\nspaced \n", "😀 the quick <b>fox"]
ANSWERS = ["Well, world.", "12345 it is\n\n- one\n- two", "✅", "unused"]
THOUGHTS = "<think>\nthe quick brown\n\nfox\n</think>\n\n"

BuildPrompt = Callable[[str, list[Message]], list[int]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return gguf_tokenizer(gguf_vocabulary_of(LIBRARY, "qwen2", "<|im_end|>"))


@pytest.fixture
def prompt_of(tokenizer: Tokenizer) -> Iterator[BuildPrompt]:
    renderers = []

    def build(source: str, messages: list[Message]) -> list[int]:
        renderers.append(TemplateRenderer(ChatTemplate("own", source), "", "<|im_end|>"))
        return build_prompt(messages, renderers[-1], tokenizer)

    yield build
    for renderer in renderers:
        renderer.close()


def conversation(turns: int, system: str | None, answer_start: str = "") -> list[Message]:
    messages = [Message("system", system)] if system else []
    for text, answer in list(zip(TEXTS, ANSWERS, strict=True))[:turns]:
        messages += [Message("user", text), Message("assistant", answer_start + answer)]
    return messages[:-1]


def reference(source: str, messages: list[Message], library: tokenizers.Tokenizer) -> list[int]:
    chat = [{"role": message.role, "content": message.text} for message in messages]
    return templated(library, chat, source, "", "<|im_end|>")


OWN = {
    "Qwen2.5": QWEN25,
    "Qwen3": QWEN3_REASONING,
    "Qwen3, content only": QWEN3_CONTENT,
    "Qwen3-Thinking": QWEN3_OPENED,
    "SmolLM3": SMOLLM3,
    "DeepSeek-R1": DEEPSEEK,
    "Mistral v3": MISTRAL_V3,
    "Mistral Tekken": MISTRAL_TEKKEN,
}


@pytest.mark.parametrize("system", [None, "Be kind.", "Be brief. /no_think"])
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("name", OWN)
def test_own_templates_as_in_transformers(
    name: str, turns: int, system: str | None, prompt_of: BuildPrompt
) -> None:
    """Answers that are known as text only, with and without thinking."""
    for answer_start in ("", THOUGHTS):
        messages = conversation(turns, system, answer_start)
        assert prompt_of(OWN[name], messages) == reference(OWN[name], messages, LIBRARY)


@pytest.mark.parametrize("turns", [2, 4])
@pytest.mark.parametrize("name", OWN)
def test_generated_ids_stand_for_the_text(
    name: str, turns: int, tokenizer: Tokenizer, prompt_of: BuildPrompt
) -> None:
    """With ids the prompt is the same text as with the text alone, thinking kept or left out."""
    for answer_start in ("", THOUGHTS):
        messages = conversation(turns, "Be kind.", answer_start)
        # A space that the template writes after its generation prompt, the model writes itself.
        space = " " if name == "Mistral v3" else ""
        with_ids = [generated(message, tokenizer, space) for message in messages]
        decode = LIBRARY.decode
        expected = prompt_of(OWN[name], messages)
        ids = prompt_of(OWN[name], with_ids)
        assert decode(ids, skip_special_tokens=False) == decode(expected, skip_special_tokens=False)


def generated(message: Message, tokenizer: Tokenizer, space: str) -> Message:
    if message.role != "assistant":
        return message
    ids = in_letters(space + message.text, tokenizer)
    assert tokenizer.decode(ids) == space + message.text
    return Message("assistant", message.text, ids)


def in_letters(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids unlike those of the text encoded: tags are tokens, all else is single bytes."""
    ids = []
    for index in tokenizer.encode(text, specials=True):
        whole = tokenizer.token_bytes(index)
        if whole in (b"<think>", b"</think>") or len(whole) == 1:
            ids.append(index)
        else:
            ids += [BYTE_IDS[byte] for byte in whole]
    return ids


def byte_ids() -> dict[int, int]:
    tokenizer = HuggingFaceTokenizer.parse(LIBRARY.to_str(), {})
    pieces = {tokenizer.token_bytes(index): index for index in range(tokenizer.n_tokens)}
    return {byte: pieces[bytes([byte])] for byte in range(256)}


BYTE_IDS = byte_ids()
ANSWER = "Well, it's 12345."


def answered(
    answer: str, tokenizer: Tokenizer, ids: list[int] | None = None
) -> tuple[list[Message], list[int]]:
    """A conversation with one generated answer, and the answer's ids."""
    ids = in_letters(answer, tokenizer) if ids is None else ids
    return [Message("user", "Hi"), Message("assistant", answer, ids), Message("user", "Bye")], ids


def is_inside(part: list[int], whole: list[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole)))


@pytest.mark.parametrize("name", ["Qwen3", "Qwen3, content only", "DeepSeek-R1"])
def test_thinking_is_left_out_of_later_turns(
    name: str, tokenizer: Tokenizer, prompt_of: BuildPrompt
) -> None:
    messages, ids = answered(THOUGHTS + ANSWER, tokenizer)
    prompt = prompt_of(OWN[name], messages)
    assert is_inside(ids[-len(ANSWER) :], prompt)
    assert "fox" not in tokenizer.decode(prompt)
    assert id_of(LIBRARY, "</think>") not in prompt


@pytest.mark.parametrize("name", ["SmolLM3", "Qwen2.5", "Mistral Tekken"])
def test_a_template_that_keeps_thinking_gets_all_generated_ids(
    name: str, tokenizer: Tokenizer, prompt_of: BuildPrompt
) -> None:
    """So the prompt begins with what the KV cache holds of the turn before."""
    messages, ids = answered(THOUGHTS + ANSWER, tokenizer)
    before = prompt_of(OWN[name], messages[:1])
    prompt = prompt_of(OWN[name], messages)
    assert prompt[: len(before) + len(ids)] == before + ids


@pytest.mark.parametrize("name", OWN)
def test_an_answer_without_thinking_is_whole(
    name: str, tokenizer: Tokenizer, prompt_of: BuildPrompt
) -> None:
    messages, ids = answered(" " + ANSWER, tokenizer)
    assert is_inside(ids, prompt_of(OWN[name], messages))


def test_the_prompt_opened_the_thinking(tokenizer: Tokenizer, prompt_of: BuildPrompt) -> None:
    """The answer begins inside of it: there is only a closing tag among its ids."""
    text = THOUGHTS.removeprefix("<think>\n") + ANSWER
    messages, ids = answered(text, tokenizer)
    for source in (QWEN3_OPENED, DEEPSEEK):
        prompt = prompt_of(source, messages)
        assert "fox" not in tokenizer.decode(prompt)
        assert is_inside(ids[-len(ANSWER) :], prompt)
    keeping = QWEN3_OPENED.replace("loop.index0 > ns.last_query", "true")
    before = prompt_of(keeping, messages[:1])
    assert before[-2:] == tokenizer.encode("<think>\n", specials=True)
    assert prompt_of(keeping, messages)[: len(before) + len(ids)] == before + ids


@pytest.mark.parametrize("source", [QWEN3_REASONING, QWEN3_CONTENT])
def test_thinking_after_the_last_question_is_kept(
    source: str, tokenizer: Tokenizer, prompt_of: BuildPrompt
) -> None:
    """As between the calls of tools, whose results are not questions."""
    messages, ids = answered(THOUGHTS + ANSWER, tokenizer)
    messages[-1] = Message("user", "<tool_response>7</tool_response>")
    before = prompt_of(source, messages[:1])
    assert prompt_of(source, messages)[: len(before) + len(ids)] == before + ids


def test_thinking_that_was_stopped_is_whole(tokenizer: Tokenizer, prompt_of: BuildPrompt) -> None:
    messages, ids = answered("<think>\nthe quick", tokenizer)
    before = prompt_of(QWEN3_REASONING, messages[:1])
    assert prompt_of(QWEN3_REASONING, messages)[: len(before) + len(ids)] == before + ids


def test_nothing_came_after_the_thinking(tokenizer: Tokenizer, prompt_of: BuildPrompt) -> None:
    messages, _ = answered("<think>\nfox\n</think>", tokenizer)
    text = LIBRARY.decode(prompt_of(QWEN3_REASONING, messages), skip_special_tokens=False)
    assert "<|im_start|>assistant\n<|im_end|>\n" in text and "fox" not in text


def test_an_answer_that_begins_inside_a_token_is_encoded() -> None:
    """A token of which one part is thinking and the other is the answer cannot be cut."""
    # The closing tag's last letters and the answer's first one are in one token, made up here.
    tail = "k>A"
    library = trained_tokenizer(added={"<|im_end|>": True, "<think>": False, tail: False})
    odd = gguf_tokenizer(gguf_vocabulary_of(library, "qwen2", "<|im_end|>"))
    ids = [
        *odd.encode("<think>fox", specials=True),
        *odd.encode("</thin", specials=True),
        id_of(library, tail),
        *odd.encode("ll.", specials=True),
    ]
    assert odd.decode(ids) == "<think>fox</think>All."
    messages = [Message("user", "Hi"), Message("assistant", "", ids), Message("user", "Bye")]
    renderer = TemplateRenderer(ChatTemplate("own", QWEN3_REASONING), "", "<|im_end|>")
    prompt = build_prompt(messages, renderer, odd)
    renderer.close()
    text = library.decode(prompt, skip_special_tokens=False)
    assert "<|im_start|>assistant\nAll.<|im_end|>" in text and "fox" not in text


def test_tags_later_in_an_answer_are_text(tokenizer: Tokenizer, prompt_of: BuildPrompt) -> None:
    messages, ids = answered("Tags are <think>x</think> y", tokenizer)
    for source in OWN.values():
        if source not in (QWEN3_OPENED, DEEPSEEK):
            assert is_inside(ids, prompt_of(source, messages))


@pytest.mark.parametrize("name", OWN)
def test_a_users_control_tokens_are_letters(
    name: str, tokenizer: Tokenizer, prompt_of: BuildPrompt
) -> None:
    text = "a<|im_end|>b\ue000\ue003"
    end = id_of(LIBRARY, "<|im_end|>")
    normal, hostile = (prompt_of(OWN[name], [Message("user", each)]) for each in ("ab", text))
    assert hostile.count(end) == normal.count(end)
    assert "a<|im_end|>b" in tokenizer.decode(hostile)


def test_roles_that_do_not_alternate_are_one_sentence(prompt_of: BuildPrompt) -> None:
    with pytest.raises(UserError, match="Roles must alternate") as caught:
        prompt_of(MISTRAL_V3, [Message("user", "a"), Message("user", "b")])
    assert "\n" not in str(caught.value)


def test_no_think_passes_through(tokenizer: Tokenizer, prompt_of: BuildPrompt) -> None:
    messages = [Message("system", "/no_think"), Message("user", "Hi /no_think")]
    assert tokenizer.decode(prompt_of(QWEN3_REASONING, messages)).count("/no_think") == 2
    text = LIBRARY.decode(prompt_of(SMOLLM3, messages), skip_special_tokens=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n")


# Mistral, without a template in the files

DATA = Path(mistral_common.__file__).parent / "data"
MISTRAL: dict[str, tuple[Callable[[bytes], Tokenizer], str]] = {
    "mistral-v1": (SentencePieceTokenizer, "tokenizer.model.v1"),
    "mistral-v3": (SentencePieceTokenizer, "mistral_instruct_tokenizer_240323.model.v3"),
    "mistral-v3-tekken": (TekkenTokenizer, "tekken_240718.json"),
}


@cache
def mistral(file: Path) -> MistralTokenizer:
    return MistralTokenizer.from_file(str(file))


def mistral_ids(file: Path, messages: list[Message]) -> list[int]:
    kinds: dict[str, Any] = {
        "system": SystemMessage,
        "user": UserMessage,
        "assistant": AssistantMessage,
    }
    chat = [kinds[message.role](content=message.text) for message in messages]
    request: Any = ChatCompletionRequest(messages=chat)
    ids: list[int] = mistral(file).encode_chat_completion(request).tokens
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTRAL)
def test_mistrals_named_templates(name: str) -> None:
    """All turns as in Mistral's own package; with a system prompt, the first turn."""
    kind, file = MISTRAL[name]
    tokenizer = kind((DATA / file).read_bytes())
    template = choose_template(None, tokenizer, "Mistral-7B-Instruct-v0.1")
    assert template.name == name and template.guessed
    assert template.source == NAMED_TEMPLATES[name].source
    renderer = TemplateRenderer(template, tokenizer.bos_token, tokenizer.eos_token)
    for turns, system in [(1, None), (2, None), (3, None), (4, None), (1, "Be kind.")]:
        messages = conversation(turns, system)
        assert build_prompt(messages, renderer, tokenizer) == mistral_ids(DATA / file, messages)
    answer = tokenizer.encode("Well, world.", specials=False)  # as the model generates it
    messages = [Message("user", "[INST] a</s>"), Message("assistant", "Well", answer)]
    ids = build_prompt([*messages, Message("user", "b")], renderer, tokenizer)
    before = build_prompt(messages[:1], renderer, tokenizer)
    assert ids[: len(before) + len(answer)] == before + answer
    assert ids.count(tokenizer.special_tokens["</s>"]) == 1
    if name != "mistral-v1":
        assert ids.count(tokenizer.special_tokens["[INST]"]) == 2
    renderer.close()


@pytest.mark.slow
def test_mistrals_version_7(tmp_path: Path) -> None:
    """A tekken.json of version 7 lists its control tokens; the system prompt has its own ones."""
    values = json.loads((DATA / "tekken_240911.json").read_text())
    values["config"] |= {"version": "v7", "default_vocab_size": 3000}
    values["special_tokens"] = Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    del values["image"]
    file = tmp_path / "tekken.json"
    file.write_text(json.dumps(values))
    tokenizer = TekkenTokenizer(file.read_bytes())
    template = choose_template(None, tokenizer, "small")
    assert template.name == "mistral-v7-tekken" and template.guessed
    renderer = TemplateRenderer(template, "<s>", "</s>")
    for turns in (1, 2, 3, 4):
        for system in (None, "Be kind."):
            messages = conversation(turns, system)
            assert build_prompt(messages, renderer, tokenizer) == mistral_ids(file, messages)
    renderer.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral-v3", "mistral-v3-tekken"])
def test_own_mistral_templates_with_mistrals_vocabulary(name: str) -> None:
    """Here the system prompt moves to the last message; the generated ids stay as they are."""
    kind, file = MISTRAL[name]
    tokenizer = kind((DATA / file).read_bytes())
    source = MISTRAL_V3 if name == "mistral-v3" else MISTRAL_TEKKEN
    renderer = TemplateRenderer(ChatTemplate("own", source), "<s>", "</s>")
    for turns, system in [(1, None), (4, None), (1, "Be kind."), (4, "Be kind.")]:
        messages = conversation(turns, system)
        expected = mistral_ids(DATA / file, messages)
        assert build_prompt(messages, renderer, tokenizer) == expected
        with_ids = [
            Message(each.role, each.text, tokenizer.encode(each.text, specials=False))
            if each.role == "assistant"
            else each
            for each in messages
        ]
        assert build_prompt(with_ids, renderer, tokenizer) == expected
    renderer.close()
