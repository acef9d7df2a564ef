"""A chat with a small random model of each family, from the files to the answer's ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.generation.events import Event, Token
from llama_cpu.tokenization import load_tokenizer
from llama_cpu.tokenization.patterns import TEKKEN_PATTERN
from tests.support.chat_templates import MISTRAL_TEKKEN, QWEN3_REASONING, QWEN25, SMOLLM3
from tests.support.conversations import prefill_of, turn
from tests.support.engine import GREEDY, load_tiny
from tests.support.families import random_model, save, save_gguf
from tests.support.reference import greedy_reference, templated
from tests.support.vocabularies import (
    SMOLLM3_PATTERN,
    gguf_vocabulary_of,
    trained_tokenizer,
)

MISTRAL_TOKENS = {"<s>": True, "</s>": True, "[INST]": True, "[/INST]": True}
# The vocabulary, its name in GGUF, the chat template, the bos and the eos token.
FAMILIES: dict[str, tuple[tokenizers.Tokenizer, str, str, str, str]] = {
    "mistral": (
        trained_tokenizer(TEKKEN_PATTERN, MISTRAL_TOKENS, nfc=False),
        "tekken",
        MISTRAL_TEKKEN,
        "<s>",
        "</s>",
    ),
    "qwen2": (trained_tokenizer(), "qwen2", QWEN25, "", "<|im_end|>"),
    "qwen3": (trained_tokenizer(), "qwen2", QWEN3_REASONING, "", "<|im_end|>"),
    "smollm3": (
        trained_tokenizer(SMOLLM3_PATTERN, nfc=False),
        "smaug-bpe",
        SMOLLM3,
        "",
        "<|im_end|>",
    ),
}
COUNT = 12


def write_tokenizer(family: str, folder: Path) -> None:
    library, _, template, bos, eos = FAMILIES[family]
    (folder / "tokenizer.json").write_text(library.to_str())
    settings = {"bos_token": bos or None, "eos_token": eos, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def vocabulary(family: str) -> dict[str, Any]:
    library, pre, template, bos, eos = FAMILIES[family]
    values = gguf_vocabulary_of(library, pre, eos) | {"tokenizer.chat_template": template}
    if bos:
        values["tokenizer.ggml.bos_token_id"] = library.token_to_id(bos)
    return values


@pytest.mark.parametrize("layout", ["hugging_face", "gguf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_turns(family: str, layout: str, tmp_path: Path) -> None:
    library, _, template, bos, eos = FAMILIES[family]
    window = {"sliding_window": 32} if family == "mistral" else {}
    model = random_model(family, vocab_size=640, **window)
    if layout == "gguf":
        path = save_gguf(
            model,
            tmp_path / "model.gguf",
            vocabulary=vocabulary(family),
            **({"attention__sliding_window": 32} if window else {}),
        )
    else:
        path = save(model, tmp_path / "model")
        write_tokenizer(family, path)
    tokenizer = load_tokenizer(open_checkpoint(path), None, tmp_path / "nowhere")
    loaded = load_tiny(path, tokenizer=tokenizer)
    chosen = choose_template(None, tokenizer, "model")
    assert chosen.source == template and not chosen.guessed
    session = ChatSession(loaded, chosen, GREEDY, max_gen_len=COUNT)

    text = "Hello world, it's 12345 \N{GRINNING FACE}"
    first = turn(session, text)
    prompt = templated(library, [{"role": "user", "content": text}], template, bos, eos)
    answer = ids_of(first)
    assert prefill_of(first).total == len(prompt)
    assert answer == greedy_reference(model, prompt, COUNT)[: len(answer)]

    cached = list(loaded.cache.token_ids)
    second = turn(session, "the quick brown fox")
    assert prefill_of(second).reused == len(cached)
    whole = loaded.cache.token_ids
    length = prefill_of(second).reused + prefill_of(second).total
    question = library.encode("the quick brown fox", add_special_tokens=False).ids
    assert any(whole[i : i + len(question)] == question for i in range(len(cached), length))
    answer = ids_of(second)
    assert answer == greedy_reference(model, whole[:length], COUNT)[: len(answer)]
    session.close()


def ids_of(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]
