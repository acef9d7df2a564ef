"""Chat templates: the model's own Jinja template, or one by name, rendered in a sandbox."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_cpu.chat.thinking import OPENING
from llama_cpu.errors import UserError
from llama_cpu.system.limited_process import LimitedProcess
from llama_cpu.system.safe_reading import read_small_file
from llama_cpu.tokenization import Tokenizer

RENDER_SECONDS = 5.0  # a template that takes longer is assumed never to end


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template; ``stop_strings`` end an answer if the model has no token for it."""

    name: str
    source: str
    stop_strings: tuple[str, ...] = ()
    guessed: bool = False  # from the vocabulary or the model's name
    asked: str | None = None  # the name or the file that the user asked for


# The variables are those of any chat template: `messages`, `add_generation_prompt`, `bos_token`
# and `eos_token`. After the generation prompt everything, even a space, is left to the model.
_TURNS = "{% for message in messages if message.role != 'system' %}"
_SYSTEM = (
    "{% set system = messages[0].content if messages and messages[0].role == 'system' else '' %}"
)


def _mistral(name: str, space: str, system_has_turn: bool) -> ChatTemplate:
    """Mistral's format from version 3 on, where ``[INST]`` and the like are control tokens.

    ``space`` comes before each message, as sentencepiece would put it. ``system_has_turn``: the
    system prompt has control tokens of its own; otherwise it goes before the first message.
    Mistral's own code puts it before the last message, which would recompute all turns each time.
    """
    turn = "{% if system %}[SYSTEM_PROMPT]" + space + "{{ system }}[/SYSTEM_PROMPT]{% endif %}"
    before = "{% if loop.first and system %}{{ system }}\n\n{% endif %}"
    return ChatTemplate(
        name,
        _SYSTEM
        + "{{ bos_token }}"
        + (turn if system_has_turn else "")
        + _TURNS
        + "{% if message.role == 'user' %}[INST]"
        + space
        + ("" if system_has_turn else before)
        + "{{ message.content }}[/INST]{% else %}"
        + space
        + "{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}",
    )


NAMED_TEMPLATES = {
    template.name: template
    for template in (
        # Meta, llama/generation.py (Llama 2)
        ChatTemplate(
            "llama-2",
            _SYSTEM
            + _TURNS
            + "{% if message.role == 'user' %}{{ bos_token }}[INST] "
            + "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}"
            + "{{ message.content | trim }} [/INST]"
            + "{% else %} {{ message.content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
        ),
        # Meta, llama3/tokenizer.py (ChatFormat)
        ChatTemplate(
            "llama-3",
            "{{ bos_token }}{% for message in messages %}"
            "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
            "{{ message.content | trim }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
            "{% endif %}",
        ),
        ChatTemplate(
            "chatml",
            "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
            "{{ message.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            ("<|im_end|>", "<|im_start|>"),
        ),
        # Mistral AI, documentation "Tokenization" and package mistral-common, by the versions
        # named there: 7B v0.1 and v0.2; 7B v0.3; Nemo; Small 3.
        ChatTemplate(
            "mistral-v1",
            _SYSTEM
            + "{{ bos_token }}"
            + _TURNS
            + "{% if message.role == 'user' %}[INST] "
            + "{% if loop.first and system %}{{ system }}\n\n{% endif %}"
            + "{{ message.content }} [/INST]"
            + "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ),
        _mistral("mistral-v3", space=" ", system_has_turn=False),
        _mistral("mistral-v3-tekken", space="", system_has_turn=False),
        _mistral("mistral-v7-tekken", space="", system_has_turn=True),
        # lm-sys, FastChat, conversation "vicuna_v1.1", with the system prompt of its training
        ChatTemplate(
            "vicuna",
            _SYSTEM
            + "{{ bos_token }}{{ system or 'A chat between a curious user and an artificial "
            + "intelligence assistant. The assistant gives helpful, detailed, and polite answers "
            + "to the user\\'s questions.' }} "
            + _TURNS
            + "{% if message.role == 'user' %}USER: {{ message.content | trim }} "
            + "{% else %}ASSISTANT: {{ message.content | trim }}{{ eos_token }}{% endif %}"
            + "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
            ("USER:",),
        ),
        # Stanford Alpaca, "Data Release"
        ChatTemplate(
            "alpaca",
            _SYSTEM
            + "{{ bos_token }}{{ system or 'Below is an instruction that describes a task. Write "
            + "a response that appropriately completes the request.' }}\n\n"
            + _TURNS
            + "{% if message.role == 'user' %}### Instruction:\n{{ message.content | trim }}\n\n"
            + "{% else %}### Response:{{ message.content | trim }}\n\n{% endif %}{% endfor %}"
            + "{% if add_generation_prompt %}### Response:{% endif %}",
            ("### Instruction:", "\n\n###"),
        ),
        # For base models: a dialogue to continue, with one exchange as an example.
        ChatTemplate(
            "transcript",
            _SYSTEM
            + "{{ bos_token }}{{ system or 'This is a conversation between a user and a friendly, "
            + "well-informed assistant, who answers every question truthfully and to the "
            + "point.' }}\n\n"
            + "User: Hello! Can you help me?\nAssistant: Hello! Of course, what is it about?\n"
            + _TURNS
            + "{% if message.role == 'user' %}User: {{ message.content | trim }}\n"
            + "{% else %}Assistant: {{ message.content | trim }}\n{% endif %}{% endfor %}"
            + "{% if add_generation_prompt %}Assistant:{% endif %}",
            ("\nUser:", "\nAssistant:"),
        ),
    )
}


def choose_template(name: str | None, tokenizer: Tokenizer, model_name: str) -> ChatTemplate:
    """Return the named template, else the model's own, else one that suits its vocabulary.

    ``name`` may also be a file with a Jinja template. Raises UserError for an unknown name.
    """
    if name is not None:
        return _named(name)
    if tokenizer.chat_template:
        return ChatTemplate("own", tokenizer.chat_template)
    return replace(NAMED_TEMPLATES[_guess(tokenizer, model_name)], guessed=True)


def _guess(tokenizer: Tokenizer, model_name: str) -> str:
    """Return the name of a template by the vocabulary's control tokens or the model's name.

    A vocabulary does not say whether its model was trained to chat. Most copies of Llama 3 and of
    Mistral's newer models were. For Llama 2 and Mistral 7B v0.1 and v0.2, the name must say so.
    """
    if "<|start_header_id|>" in tokenizer.special_tokens:
        return "llama-3"
    if "<|im_start|>" in tokenizer.special_tokens:
        return "chatml"
    if "[INST]" in tokenizer.special_tokens:
        return _guess_mistral(tokenizer)
    name = model_name.lower()
    if "mistral" in name and "instruct" in name:
        return "mistral-v1"
    return "llama-2" if "chat" in name else "transcript"


def _guess_mistral(tokenizer: Tokenizer) -> str:
    # Sentencepiece vocabularies put a space before a text, Tekken does not.
    if tokenizer.decode(tokenizer.encode("a", specials=False)) == " a":
        return "mistral-v3"
    is_v7 = "[SYSTEM_PROMPT]" in tokenizer.special_tokens
    return "mistral-v7-tekken" if is_v7 else "mistral-v3-tekken"


def _named(name: str) -> ChatTemplate:
    if name in NAMED_TEMPLATES:
        return replace(NAMED_TEMPLATES[name], asked=name)
    path = Path(name)
    try:
        return ChatTemplate(path.name, read_small_file(path).decode(), asked=name)
    except UserError as error:
        raise UserError(
            f"--template {name} is neither a readable file nor a known name; the known names are "
            f"{', '.join(NAMED_TEMPLATES)}."
        ) from error
    except ValueError as error:
        raise UserError(f"--template {name}: this file is not UTF-8 text.") from error


class TemplateRenderer:
    """Renders one template in a separate process, which the first use starts."""

    def __init__(self, template: ChatTemplate, bos_token: str, eos_token: str) -> None:
        self.template = template
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._process = LimitedProcess("llama_cpu.chat.template_worker", RENDER_SECONDS)

    def render(self, conversations: Sequence[dict[str, Any]]) -> list[str]:
        """Render conversations, each ``{"messages": [...], "add_generation_prompt": bool}``.

        Raises UserError if the template fails, is stopped by the sandbox or does not end.
        """
        request = {
            "source": self.template.source,
            "variables": self._variables,
            "conversations": conversations,
        }
        reply = self._process.ask(json.dumps(request))
        if reply is None:
            raise UserError(
                f"The chat template ({self.template.name}) did not finish within "
                f"{RENDER_SECONDS:.0f} seconds or took too much memory; choose another with "
                "--template."
            )
        answer: dict[str, Any] = json.loads(reply)
        if "error" in answer:
            raise UserError(
                f"The chat template ({self.template.name}) failed: {answer['error']}; choose "
                "another with --template."
            )
        texts: list[str] = answer["texts"]
        return texts

    @property
    def wants_reasoning_content(self) -> bool:
        """Whether the template takes an answer's thinking from a field of its own."""
        return "reasoning_content" in self.template.source

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the generation prompt ends with ``<think>``, so that answers begin inside."""
        messages = [{"role": "user", "content": "Hello"}]
        try:
            texts = self.render([{"messages": messages, "add_generation_prompt": True}])
        except UserError:  # the conversation itself shows whether the template fails
            return False
        return texts[0].rstrip().endswith(OPENING)

    def close(self) -> None:
        """End the process; the next use starts another one."""
        self._process.close()
