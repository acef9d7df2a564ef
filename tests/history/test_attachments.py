"""Files in the text of a message: found exactly where they are, whatever they contain."""

import pytest

from llama_cpu.history.attachments import Attachment, attachment, collapsed, parts
from llama_cpu.history.rows import first_words
from llama_cpu.tui.attachments import Attachments

NOTES = attachment("notes.txt", "one\ntwo\n\n", 1234)
NESTED = attachment('a "b"\n.md', f"{NOTES.block}\n</file>\n<file name=", 5)


@pytest.mark.parametrize(
    "file",
    [NOTES, NESTED, attachment("x", "", 0), attachment("y", "\n\nz", 1)],
    ids=lambda file: file.name,
)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("Look:\n", "\nAnd?"), ("\n\n", "\n")])
def test_a_file_is_found_again(file: Attachment, before: str, after: str) -> None:
    message = f"{before}{file.block}{after}"
    found = list(parts(message))
    assert [each for each in found if isinstance(each, Attachment)] == [file]
    assert collapsed(message) == f"{before}{file.label}{after}"


def test_the_line_and_the_title() -> None:
    assert NOTES.label == "[notes.txt, 1,234 tokens]"
    assert NESTED.name == "a 'b' .md"
    assert first_words(f"{NOTES.block}\nSum up") == "[notes.txt, 1,234 tokens] Sum up"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        NOTES.block.replace("lines=", "length="),
        NOTES.block.replace('lines="2"', 'lines="3"'),
        NOTES.block.replace('lines="2"', 'lines="99999999"'),
        NOTES.block.replace("</file>", "</File>"),
        f"x{NOTES.block}",
        "<file ",
    ],
)
def test_whatever_is_not_exactly_so_stays(text: str) -> None:
    assert collapsed(text) == text


def test_lines_in_the_prompt_stand_for_files() -> None:
    files = Attachments()
    line = files.add(NOTES)
    other = files.add(Attachment(NOTES.name, "three", NOTES.tokens))
    assert files.add(NOTES) == line and other == "[notes.txt, 1,234 tokens, 2]"
    typed = f"{line}\nCompare with\n{other}"
    message = files.expand(typed)
    assert message.count("</file>") == 2 and "three" in message
    assert files.collapse(message) == typed
    assert files.expand("[another.txt, 3 tokens]") == "[another.txt, 3 tokens]"
    assert Attachments().collapse(NOTES.block) == line  # of a message from an earlier run
