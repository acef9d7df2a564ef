"""Splitting the text of an answer into thinking and answer."""

import pytest

from llama_cpu.chat.thinking import ThinkingSplitter, split_thinking


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


WHOLE = "<think>\nA man, so he is mortal.\n</think>\n\nSocrates **is** mortal.\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("begins_open", [False, True])
def test_in_parts_as_whole(size: int, begins_open: bool) -> None:
    """Also where a tag comes in several parts."""
    text = WHOLE.removeprefix("<think>") if begins_open else WHOLE
    splitter = ThinkingSplitter(begins_open)
    answer = "".join(splitter.feed(text[at : at + size]) for at in range(0, len(text), size))
    assert answer.rstrip() == "Socrates **is** mortal."
    assert splitter.thinking == "A man, so he is mortal." and not splitter.is_open
    assert not splitter.finish() and splitter.answer == "Socrates **is** mortal.\n"


def test_nothing_is_shown_before_it_is_clear_what_it_is() -> None:
    splitter = ThinkingSplitter()
    assert [splitter.feed(part) for part in ("\n", "<th", "ink")] == ["", "", ""]
    assert not splitter.is_open
    assert splitter.feed(">A man") == "" and splitter.is_open and splitter.thinking == "A man"


def test_a_text_that_only_looks_like_the_tag() -> None:
    splitter = ThinkingSplitter()
    assert splitter.feed("<th") == ""
    assert splitter.feed("e> is") == "<the> is" and splitter.feed(" HTML") == " HTML"
    splitter = ThinkingSplitter()
    assert splitter.feed("<") == ""
    assert splitter.finish() and splitter.answer == "<"


def test_a_closing_tag_shows_that_the_prompt_opened_the_block() -> None:
    splitter = ThinkingSplitter()
    assert splitter.feed("A man.") == "A man."
    splitter.feed("\n</think>\n\nYes.")
    assert splitter.finish() and (splitter.thinking, splitter.answer) == ("A man.", "Yes.")


def test_an_empty_block_is_nothing() -> None:
    splitter = ThinkingSplitter()
    assert [splitter.feed(part) for part in ("<think>\n\n", "</think>\n\n", "Yes.")] == [
        "",
        "",
        "Yes.",
    ]
    assert splitter.thinking == "" and not splitter.is_open and not splitter.finish()
