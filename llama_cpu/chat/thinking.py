"""The thinking that reasoning models write before their answer, between ``<think>`` tags.

Qwen3, DeepSeek-R1, SmolLM3 and others write ``<think>reasoning</think>answer``. Some chat templates
put the opening tag into the prompt; then only ``</think>`` appears in the text of the answer.
"""

import re

OPENING, CLOSING = "<think>", "</think>"

# A closing tag without an opening one counts only on a line of its own: other text may quote it.
_CLOSING_LINE = re.compile(rf"^[ \t]*{CLOSING}[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^[ ]{0,3}(?:```|~~~)", re.MULTILINE)


def split_thinking(text: str, begins_open: bool = False) -> tuple[str, str, bool]:
    """Split the text of an answer into ``(thinking, answer, is_open)``.

    Only a block at the beginning of the text counts as thinking; tags further on are text.
    ``is_open`` says that the block has no closing tag yet, so that everything after the opening
    tag is thinking. White space around both parts and the tags themselves are left out.

    With ``begins_open`` the prompt ended in the opening tag, and the text begins inside the block.
    Without it, a closing tag on a line of its own ends such a block, unless it stands in a fenced
    code block.
    """
    inside = text.lstrip()
    if inside.startswith(OPENING):
        inside = inside[len(OPENING) :]
    elif not begins_open:
        closing = _CLOSING_LINE.search(text)
        if not closing or len(_FENCE.findall(text, 0, closing.start())) % 2:
            return "", text, False
        return text[: closing.start()].strip(), text[closing.end() :].lstrip(), False
    thinking, closed, answer = inside.partition(CLOSING)
    return thinking.strip(), answer.lstrip(), not closed


class ThinkingSplitter:
    """Splits the text of an answer that arrives in parts, as ``split_thinking`` does as a whole."""

    def __init__(self, begins_open: bool = False) -> None:
        self._begins_open = begins_open
        self._has_begun = False  # the answer proper
        self.text = ""  # everything that was fed
        self.thinking = ""
        self.answer = ""  # complete only after ``finish``
        self.is_open = False

    def feed(self, text: str) -> str:
        """Add a part; return what it adds to the answer proper."""
        self.text += text
        if self._has_begun:
            return text
        if not self._begins_open and OPENING.startswith(self.text.lstrip()):
            return ""  # it may become the tag
        self.thinking, answer, self.is_open = split_thinking(self.text, self._begins_open)
        self._has_begun = bool(answer)
        return answer

    def finish(self) -> bool:
        """Split the whole text; return whether this differs from what was returned so far."""
        before = self.thinking
        self.thinking, self.answer, self.is_open = split_thinking(self.text, self._begins_open)
        return self.thinking != before or bool(self.answer) != self._has_begun
