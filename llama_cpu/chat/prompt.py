"""A conversation's prompt ids, with the model's own answers as the ids that it generated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_cpu.chat.templates import TemplateRenderer
from llama_cpu.tokenization import Tokenizer

# Private-use characters; any in a message are dropped before it is rendered.
_ANSWER_OPEN, _ANSWER_CLOSE, _PLAIN_OPEN, _PLAIN_CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"
_MARKS = re.compile("[\ue000-\ue003]")


@dataclass
class Message:
    """One turn. ``token_ids``: of an answer, the ids that were generated, without the end token."""

    role: str  # "system", "user" or "assistant"
    text: str
    token_ids: list[int] = field(default_factory=list)


def build_prompt(
    messages: Sequence[Message], renderer: TemplateRenderer, tokenizer: Tokenizer
) -> list[int]:
    """Ids of the whole conversation up to where the next answer begins.

    Answers are never encoded from their text: a template is rendered with a placeholder for each,
    the text between the placeholders is encoded, and the generated ids are put in between. So
    the prompt of one turn begins with exactly the ids that the turn before left in the KV cache.

    Text of messages that looks like a special token (``<|im_end|>``) is encoded as the letters
    that it is. Raises UserError where the template fails.
    """
    rendered = [_to_render(index, message, tokenizer) for index, message in enumerate(messages)]
    answers = [index for index, message in enumerate(messages) if message.token_ids]
    # Rendered up to each answer, too: whatever the template puts between the generation prompt
    # and the answer (a space, say) the model has written itself.
    ends = [*answers, len(messages)]
    *openings, whole = renderer.render(
        [{"messages": rendered[:end], "add_generation_prompt": True} for end in ends]
    )
    ids: list[int] = []
    position = 0
    for index, opening in zip(answers, openings, strict=True):
        placeholder = _placeholder(index)
        start = whole.find(placeholder)
        if start < 0:  # the template leaves this answer out
            continue
        end = _end_of_opening(whole[:start], opening)
        ids += _encode(whole[position:end], tokenizer, continued=position > 0)
        ids += messages[index].token_ids
        position = start + len(placeholder)
    return ids + _encode(whole[position:], tokenizer, continued=position > 0)


def _to_render(index: int, message: Message, tokenizer: Tokenizer) -> dict[str, str]:
    if message.token_ids:
        return {"role": message.role, "content": _placeholder(index)}
    text = _MARKS.sub("", message.text)
    content = tokenizer.special_pattern.sub(rf"{_PLAIN_OPEN}\1{_PLAIN_CLOSE}", text)
    return {"role": message.role, "content": content}


def _placeholder(index: int) -> str:
    return f"{_ANSWER_OPEN}{index}{_ANSWER_CLOSE}"


def _end_of_opening(before_answer: str, opening: str) -> int:
    if before_answer.startswith(opening) and before_answer[len(opening) :].isspace():
        return len(opening)
    return len(before_answer)


def _encode(text: str, tokenizer: Tokenizer, continued: bool) -> list[int]:
    ids: list[int] = []
    # Every second piece is text of a message that only looks like a special token.
    for number, piece in enumerate(re.split(f"[{_PLAIN_OPEN}{_PLAIN_CLOSE}]", text)):
        if piece:
            follows = continued or bool(ids)
            ids += tokenizer.encode(piece, specials=number % 2 == 0, continued=follows)
    return ids
