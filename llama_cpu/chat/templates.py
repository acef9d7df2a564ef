"""How a conversation becomes a prompt: the model's own Jinja template, or one by name."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_cpu.errors import UserError
from llama_cpu.system.safe_reading import read_small_file
from llama_cpu.tokenization import Tokenizer

RENDER_SECONDS = 5.0  # after which a template is taken to run for ever


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja program; ``stop_strings`` end an answer where the model has no token for it."""

    name: str
    source: str
    stop_strings: tuple[str, ...] = ()
    guessed: bool = False  # by the vocabulary or the model's name
    asked: str | None = None  # the name or the file that was asked for


# Each gets `messages`, `add_generation_prompt`, `bos_token` and `eos_token`, as any chat template.
# What comes after the generation prompt, a space included, is left to the model.
_TURNS = "{% for message in messages if message.role != 'system' %}"
_SYSTEM = (
    "{% set system = messages[0].content if messages and messages[0].role == 'system' else '' %}"
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
        # lm-sys, FastChat, conversation "vicuna_v1.1", whose system prompt it was trained with
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
        # For base models: a dialogue to be continued, with one exchange to show how it goes.
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
    """The template asked for, or the model's own, or what suits its vocabulary.

    ``name`` may also be a file with a Jinja template. Raises UserError for an unknown name.
    """
    if name is not None:
        return _named(name)
    if tokenizer.chat_template:
        return ChatTemplate("own", tokenizer.chat_template)
    return replace(NAMED_TEMPLATES[_guess(tokenizer, model_name)], guessed=True)


def _guess(tokenizer: Tokenizer, model_name: str) -> str:
    """Meta's files do not say whether a model was taught to chat. Most copies of Llama 3 are, and
    of Llama 2 those whose folder says so."""
    if "<|start_header_id|>" in tokenizer.special_tokens:
        return "llama-3"
    if "<|im_start|>" in tokenizer.special_tokens:
        return "chatml"
    return "llama-2" if "chat" in model_name.lower() else "transcript"


def _named(name: str) -> ChatTemplate:
    if name in NAMED_TEMPLATES:
        return replace(NAMED_TEMPLATES[name], asked=name)
    path = Path(name)
    try:
        return ChatTemplate(path.name, read_small_file(path).decode(), asked=name)
    except UserError as error:
        raise UserError(
            f"--template {name}: there is no such file that can be read, and the names known are "
            f"{', '.join(NAMED_TEMPLATES)}."
        ) from error
    except ValueError as error:
        raise UserError(f"--template {name}: this file is not UTF-8 text.") from error


class TemplateRenderer:
    """Renders one template in a process of its own, started at the first use."""

    def __init__(self, template: ChatTemplate, bos_token: str, eos_token: str) -> None:
        self.template = template
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._process: subprocess.Popen[str] | None = None

    def render(self, conversations: Sequence[dict[str, Any]]) -> list[str]:
        """The text of each conversation, ``{"messages": [...], "add_generation_prompt": bool}``.

        Raises UserError where the template fails, reaches for what it may not, or does not end.
        """
        request = {
            "source": self.template.source,
            "variables": self._variables,
            "conversations": conversations,
        }
        reply = self._ask(json.dumps(request))
        if not reply.endswith("\n"):
            self.close()
            raise UserError(
                f"The chat template ({self.template.name}) did not finish within "
                f"{RENDER_SECONDS:.0f} seconds or took too much memory; choose another with "
                "--template."
            )
        answer = json.loads(reply)
        if "error" in answer:
            raise UserError(
                f"The chat template ({self.template.name}) failed: {answer['error']}; choose "
                "another with --template."
            )
        return answer["texts"]

    def _ask(self, request: str) -> str:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(RENDER_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:  # it died while it was written to
            return ""
        finally:
            timer.cancel()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            # Modules come from where this process has them, never from the folder that it is in,
            # which may be a downloaded model's with a json.py beside it.
            paths = [str(Path(path).absolute()) for path in sys.path if path]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llama_cpu.chat.template_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                cwd=Path(__file__).parents[2],  # python -m looks there first
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"},
                # Ctrl+C in the terminal is for the chat, not for its helper.
                start_new_session=True,
            )
            assert self._process.stdout is not None
            self._process.stdout.readline()  # it says that it is ready; a cold disk takes long
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()  # closes the pipes
            self._process = None
