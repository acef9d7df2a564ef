"""What an answer looks like: Markdown, and text that is never taken for anything else."""

import pytest
from textual.content import Content

from llama_cpu.tui.markdown import CODE_LINES, pieces
from llama_cpu.tui.widgets.message_views import Answer
from tests.tui.driving import ask_and_wait, chat, conversation, screen, screen_text, until
from tests.tui.fakes import FakeSession, script

EVERYTHING = """\
# Title

A paragraph with **bold**, *italic*, ~~struck~~ and `code`,
on two lines.

1. one
2. two
   - nested and long enough to be wrapped at forty columns
     ```sh
     ls
     ```
10. ten

* star

> quoted
> text

| City | Country |
|------|---------|
| Paris | France |

---

```python
def f(x: int) -> int:
    return x
```

    indented code

Setext
======
The end.
"""


def shown(text: str, width: int = 40) -> list[str]:
    """The lines of a Markdown text without their styles."""
    lines = [line for piece in pieces(text) for line in piece.layout(width).plain.split("\n")]
    return [line.rstrip() for line in lines]


def test_every_kind_of_block() -> None:
    assert shown(EVERYTHING) == [
        "Title",
        "",
        "A paragraph with bold, italic, struck and code,",
        "on two lines.",
        "",
        "1. one",
        "2. two",
        "   ◦ nested and long enough to be",
        "     wrapped at forty columns",
        "      ls",
        "10. ten",
        "",
        "• star",
        "",
        "│ quoted",
        "│ text",
        "",
        "City  │ Country",
        "──────┼────────",
        "Paris │ France",
        "",
        "────────────────────",
        "",
        " def f(x: int) -> int:",
        "     return x",
        "",
        " indented code",
        "",
        "Setext",
        "",
        "The end.",
    ]


def test_a_table_too_wide_is_made_narrower() -> None:
    table = "| a | b |\n|---|---|\n| short | " + "word " * 30 + "|\n"
    lines = shown(table, width=30)
    assert all(Content(line).cell_length <= 30 for line in lines)
    assert sum(line.count("word") for line in lines) == 30


def test_styles() -> None:
    content = pieces("**bold** and `code`")[0].layout(80)
    styles = {content.plain[span.start : span.end]: str(span.style) for span in content.spans}
    assert styles == {"bold": "bold", "code": "$text-warning"}


def test_code_is_highlighted_and_cut_into_parts() -> None:
    code = "".join(f"x = {n}\n" for n in range(CODE_LINES + 1))
    first, second = pieces(f"```python\n{code}```\n")
    assert not second.has_gap
    assert second.layout(80).plain.strip() == f"x = {CODE_LINES}"
    assert any("$text-warning" in str(span.style) for span in first.layout(80).spans)


def test_links_boxes_and_the_alignment_of_tables() -> None:
    assert shown("[a *b*](http://x.org/) ![c](d.png)") == ["a b (http://x.org/) c (d.png)"]
    assert shown("<http://x.org>") == ["http://x.org"]
    assert shown("- [ ] one\n- [x] two\n- [y] three") == ["☐ one", "☑ two", "• [y] three"]
    table = "| left | right | middle |\n| :-- | --: | :-: |\n| a | b | c |"
    assert shown(table)[2].split("│") == ["a    ", "     b ", "   c"]


def test_an_entity_is_no_control_character() -> None:
    assert "\r" not in "".join(shown("&#13; `a` [x&#13;](http://x/&#13;)"))


@pytest.mark.parametrize(
    "text",
    [
        "[bold]x[/]",
        "[@click=app.quit]x[/]",
        "[link](javascript:alert(1))",
        "[1]: http://example.com",
        "<b>html</b> <script>alert(1)</script>",
        "<div>\nblock\n</div>",
        "[/unbalanced]",
        "$primary",
    ],
)
def test_markup_is_shown_as_it_was_written(text: str) -> None:
    assert "\n".join(shown(text)) == text
    styles = [str(span.style) for piece in pieces(text) for span in piece.layout(80).spans]
    assert styles == []


async def test_escape_sequences_are_shown_and_not_sent() -> None:
    evil = "\x1b[31mred\x07 \x9b2J `\x1b]0;title` &#27;[1m\r"
    session = FakeSession([script(evil)])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "\x1b[2J")
        text = screen_text(pilot)
        assert "␛[31mred␇" in text
        assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in text)


@pytest.mark.parametrize("step", [1, 3, 40])
async def test_a_growing_answer_looks_as_if_it_had_come_at_once(step: int) -> None:
    async with chat(FakeSession([])) as pilot:
        whole, growing = Answer("Model"), Answer("Model")
        await screen(pilot).query_one("#messages").mount_all([whole, growing])
        await whole.append(EVERYTHING)
        for start in range(0, len(EVERYTHING), step):
            await growing.append(EVERYTHING[start : start + step])
        await pilot.pause()
        one, other = conversation(pilot)
        assert other == one
        for answer in (whole, growing):
            await answer.finish()
        await until(pilot, lambda: whole.size.height == growing.size.height)
        assert conversation(pilot) == [one, one]
        assert len(growing.query("Passage")) == 1


async def test_only_the_last_pieces_are_parsed_again() -> None:
    async with chat(FakeSession([])) as pilot:
        answer = Answer("Model")
        await screen(pilot).query_one("#messages").mount(answer)
        await answer.append("- one\n- two\n- three")
        first, *_ = answer.query("Passage")
        await answer.append(" and a half\n- four")
        assert answer.query("Passage").first() is first
        assert answer._tail == "- three and a half\n- four"
