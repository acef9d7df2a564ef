"""Splitting the text of an answer into thinking and answer."""

import pytest

from llama_cpu.chat.thinking import split_thinking


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ("", "", False)),
        ("Hello.", ("", "Hello.", False)),
        ("  Hello.\n", ("", "  Hello.\n", False)),
        ("<think>\nA man.\n</think>\n\nSocrates.", ("A man.", "Socrates.", False)),
        ("\n<think>A man.</think>Socrates.", ("A man.", "Socrates.", False)),
        ("<think>\n\n</think>\n\nSocrates.", ("", "Socrates.", False)),
        ("<think>", ("", "", True)),
        ("<think>\nA man", ("A man", "", True)),
        ("<think>A man</thi", ("A man</thi", "", True)),
        ("<think>a</think>", ("a", "", False)),
        ("<think>a</think>b</think>c", ("a", "b</think>c", False)),
        ("<thinking>a</think>", ("", "<thinking>a</think>", False)),
        ("Look:\n```\n<think>x</think>\n```\n", ("", "Look:\n```\n<think>x</think>\n```\n", False)),
        ("First <think>x</think> y", ("", "First <think>x</think> y", False)),
        ("<think>a</think>```\n<think>b</think>\n```", ("a", "```\n<think>b</think>\n```", False)),
    ],
)
def test_only_a_block_at_the_beginning_is_thinking(
    text: str, expected: tuple[str, str, bool]
) -> None:
    assert split_thinking(text) == expected


def test_the_prompt_may_have_opened_the_block() -> None:
    assert split_thinking("Well, ", begins_open=True) == ("Well,", "", True)
    assert split_thinking("Well, </think>yes", begins_open=True) == ("Well,", "yes", False)
    assert split_thinking("<think>Well</think>yes", begins_open=True) == ("Well", "yes", False)


def test_a_stored_answer_whose_block_the_prompt_opened() -> None:
    assert split_thinking("Well.\nSo.\n</think>\n\nYes.") == ("Well.\nSo.", "Yes.", False)


@pytest.mark.parametrize(
    "text",
    [
        "The tag is </think> there.",
        "Write\n```\n</think>\n```\nat the end.",
        "The tag `</think>` ends it.",
    ],
)
def test_a_closing_tag_that_is_only_quoted_is_text(text: str) -> None:
    assert split_thinking(text) == ("", text, False)
