"""The prompt ids of a conversation, with the model's own answers as the ids that it generated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_cpu.chat.templates import TemplateRenderer
from llama_cpu.chat.thinking import CLOSING, OPENING
from llama_cpu.tokenization import Tokenizer

# Private-use characters; they are removed from messages before rendering.
_ANSWER_OPEN, _ANSWER_CLOSE, _PLAIN_OPEN, _PLAIN_CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"
_TAIL = 8  # number of characters by which the end of a generation prompt is recognized
_MARKS = re.compile("[\ue000-\ue003]")


@dataclass
class Message:
    """One message. ``token_ids``: an answer's generated ids, without the end token."""

    role: str  # "system", "user" or "assistant"
    text: str
    token_ids: list[int] = field(default_factory=list)


def build_prompt(
    messages: Sequence[Message], renderer: TemplateRenderer, tokenizer: Tokenizer
) -> list[int]:
    """Return the ids of the whole conversation up to where the next answer begins.

    The model's own answers are never encoded from their text: the template is rendered with
    placeholders for them, the text between the placeholders is encoded, and the generated ids are
    inserted. So the prompt of one turn begins with the ids that the turn before left in the KV
    cache. An answer with thinking has two placeholders, because many templates leave the thinking
    out of earlier turns. A part that the template keeps is replaced by its generated ids.

    Text of messages that looks like a control token (``<|im_end|>``, ``[INST]``) is encoded as
    plain letters. Raises UserError if the template fails.
    """
    answers = {
        index: _split_answer(message.token_ids, tokenizer, renderer)
        for index, message in enumerate(messages)
        if message.token_ids
    }
    rendered = [
        answers[index].to_render(index, renderer.wants_reasoning_content)
        if index in answers
        else {"role": message.role, "content": _plain(message.text, tokenizer)}
        for index, message in enumerate(messages)
    ]
    # The template is also rendered up to each answer: what it puts between the generation prompt
    # and the answer (a space, for example) is among the generated ids already.
    ends = [*answers, len(messages)]
    *openings, whole = renderer.render(
        [{"messages": rendered[:end], "add_generation_prompt": True} for end in ends]
    )
    ids: list[int] = []
    position = 0
    for (index, answer), opening in zip(answers.items(), openings, strict=True):
        for start, end, answer_ids in answer.find(index, whole, opening, tokenizer):
            ids += _encode(whole[position:start], tokenizer, continued=position > 0)
            ids += answer_ids
            position = end
    return ids + _encode(whole[position:], tokenizer, continued=position > 0)


@dataclass(frozen=True)
class _Answer:
    """A generated answer: ``data`` are its UTF-8 bytes, cut into a thinking part and the rest.

    Bytes 0 to ``thinking[0]`` are the opening tag, if the model wrote it, and white space;
    between ``thinking[1]`` and ``rest`` are the closing tag and white space. Without thinking
    all three numbers are 0.
    """

    ids: list[int]
    data: bytes
    thinking: tuple[int, int] = (0, 0)
    rest: int = 0

    def to_render(self, index: int, apart: bool) -> dict[str, str]:
        """The message for the template; ``apart``: with the thinking in a field of its own."""
        thinking, rest = _placeholder(index, "t"), _placeholder(index, "a")
        if not self.rest:
            return {"role": "assistant", "content": rest}
        if apart:
            return {"role": "assistant", "content": rest, "reasoning_content": thinking}
        opening = self._text(0, self.thinking[0])
        if OPENING not in opening:  # the prompt had it
            opening = f"{OPENING}\n"
        closing = self._text(self.thinking[1], self.rest)
        return {"role": "assistant", "content": opening + thinking + closing + rest}

    def find(
        self, index: int, whole: str, opening: str, tokenizer: Tokenizer
    ) -> list[tuple[int, int, list[int]]]:
        """Return the parts of the rendered text to replace: their start, end and ids.

        ``opening``: the text rendered up to this answer. A part that the template left out is
        not in the list.
        """
        rest, rest_end = _span(whole, _placeholder(index, "a"))
        thinking, thinking_end = _span(whole, _placeholder(index, "t"))
        if not self.rest:
            if rest < 0:
                return []
            start = _end_of_opening(whole[:rest], opening)
            return [(rest if start is None else start, rest_end, self.ids)]
        if 0 <= thinking < rest and whole[thinking_end:rest].strip() == CLOSING:
            start = self._start_of_all(whole[:thinking], opening)
            if start is not None:
                return [(start, rest_end, self.ids)]
        parts = []
        if thinking >= 0:
            parts.append((thinking, thinking_end, self._ids_of(*self.thinking, tokenizer)))
        if rest >= 0:
            parts.append((rest, rest_end, self._ids_of(self.rest, len(self.data), tokenizer)))
        return sorted(parts)

    def _start_of_all(self, before: str, opening: str) -> int | None:
        """Return where the whole answer begins; None if the template rewrites its thinking."""
        if OPENING in self._text(0, self.thinking[0]):
            before = before.rstrip()
            if not before.endswith(OPENING):
                return None
            before = before.removesuffix(OPENING)
        return _end_of_opening(before, opening)

    def _ids_of(self, start: int, end: int, tokenizer: Tokenizer) -> list[int]:
        """The ids of a range of bytes: the generated ones if it begins and ends between tokens."""
        bounds = [0]
        for token_id in self.ids:
            bounds.append(bounds[-1] + len(tokenizer.token_bytes(token_id)))
        if start in bounds and end in bounds:
            return self.ids[bounds.index(start) : bounds.index(end)]
        return tokenizer.encode_message(self._text(start, end))

    def _text(self, start: int, end: int) -> str:
        return self.data[start:end].decode(errors="replace")


def _split_answer(ids: list[int], tokenizer: Tokenizer, renderer: TemplateRenderer) -> _Answer:
    """Find the thinking at the beginning of an answer, as ``thinking.split_thinking`` does.

    Thinking that has not ended is not split off: templates look for the closing tag.
    """
    data = b"".join(map(tokenizer.token_bytes, ids))
    opening, closing = OPENING.encode(), CLOSING.encode()
    begin = _skip_space(data, 0)
    if data.startswith(opening, begin):
        begin = _skip_space(data, begin + len(opening))
    elif closing not in data or not renderer.opens_thinking:
        return _Answer(ids, data)
    close = data.find(closing, begin)
    if close < 0:
        return _Answer(ids, data)
    end = begin + len(data[begin:close].rstrip())
    return _Answer(ids, data, (begin, end), _skip_space(data, close + len(closing)))


def _skip_space(data: bytes, start: int) -> int:
    return len(data) - len(data[start:].lstrip())


def _plain(text: str, tokenizer: Tokenizer) -> str:
    """A message's text, with marks around what looks like a control token."""
    text = _MARKS.sub("", text)
    return tokenizer.special_pattern.sub(rf"{_PLAIN_OPEN}\1{_PLAIN_CLOSE}", text)


def _placeholder(index: int, part: str) -> str:
    return f"{_ANSWER_OPEN}{part}{index}{_ANSWER_CLOSE}"


def _span(text: str, placeholder: str) -> tuple[int, int]:
    """Where a placeholder begins and ends; a negative number if it is not there."""
    start = text.find(placeholder)
    return start, start + len(placeholder)


def _end_of_opening(before: str, opening: str) -> int | None:
    """Where the generation prompt ends in the text before an answer; None if it ends differently.

    Only the ends are compared: some templates put the system prompt into the last user message.
    """
    tail, opening_tail = before.rstrip(), opening.rstrip()
    space = opening[len(opening_tail) :]
    if tail.endswith(opening_tail[-_TAIL:]) and before[len(tail) :].startswith(space):
        return len(tail) + len(space)
    return None


def _encode(text: str, tokenizer: Tokenizer, continued: bool) -> list[int]:
    ids: list[int] = []
    # Every second piece is text of a message that only looks like a control token.
    for number, piece in enumerate(re.split(f"[{_PLAIN_OPEN}{_PLAIN_CLOSE}]", text)):
        if piece:
            follows = continued or bool(ids)
            ids += tokenizer.encode(piece, specials=number % 2 == 0, continued=follows)
    return ids
