"""Chat templates, which are programs from strangers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cpu.chat.templates import ChatTemplate, TemplateRenderer
from llama_cpu.errors import UserError
from tests.bad_input.test_json_files import change_json

HOSTILE = {
    "attributes of a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of a method": "{{ cycler.__init__.__globals__.os.system('id') }}",
    "attributes by a filter": "{{ ''|attr('__class__')|attr('__mro__')|list }}",
    "attributes by a format": "{{ '{0.__class__.__mro__}'.format('').split('<')[1] }}",
    "a module": "{% import 'os' as os %}{{ os }}",
    "an environment": "{{ self.__init__.__globals__ }}",
    "changes a message": "{{ messages.append(1) }}",
    "syntax error": "{% for message in messages %}",
    "unknown tag": "{% evil %}",
    "unknown filter": "{{ messages|evil }}",
    "division by zero": "{{ 1 // 0 }}",
    "its own refusal": "{{ raise_exception('\x1b[2J no\nway' ~ 'x' * 10000) }}",
    "calls itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "nested beyond reason": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a list of 100 million": "{{ range(100000000)|list }}",
    "a string of 10 GB": "{{ 'x' * 10000000000 }}",
    "a text of 100 MB": "{{ 'x' * 100000000 }}",
    "half a character": "{{ '\\ud800' }}",
    "wrong type": "{{ messages.content + 5 }}",
    "a huge number": "{{ 9 ** 9 ** 5 }}",
}


@pytest.fixture
def render():
    renderers = []

    def run(source: str) -> str:
        renderers.append(TemplateRenderer(ChatTemplate("its own", source), "<s>", "</s>"))
        conversation = {"messages": [{"role": "user", "content": "hi"}]}
        return renderers[-1].render([conversation | {"add_generation_prompt": True}])[0]

    yield run
    for renderer in renderers:
        renderer.close()


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_what_a_template_may_not_do(source: str, render) -> None:
    """Either it is refused, or what it reached for is not there."""
    try:
        text = render(source)
    except UserError as error:
        assert "its own" in str(error) and len(str(error)) < 500
    else:
        assert "object" not in text and "class" not in text and len(text) < 1000


@pytest.mark.parametrize(
    "loop",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(t='x') %}{% for a in range(9999) %}{% set ns.t = ns.t ~ ns.t %}"
        "{% endfor %}",
    ],
    ids=["without end", "doubling"],
)
def test_a_template_that_never_ends(loop: str, model, refused, monkeypatch) -> None:
    monkeypatch.setattr("llama_cpu.chat.templates.RENDER_SECONDS", 2.0)
    folder = model("hugging_face")
    change_json(folder / "tokenizer_config.json", {"chat_template": loop})
    assert "template" in refused(folder, "--chat")


def test_a_template_that_fails_does_so_in_one_line(model, refused) -> None:
    folder = model("hugging_face")
    source = HOSTILE["its own refusal"]
    change_json(folder / "tokenizer_config.json", {"chat_template": source})
    assert "no" in refused(folder, "--chat")


def test_the_worker_takes_no_module_from_the_folder_it_is_started_in(tmp_path: Path) -> None:
    """Downloaded folders hold Python files, too."""
    for name in ("json", "jinja2", "signal", "llama_cpu"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()")
    program = (
        "import os, sys; from llama_cpu.chat.templates import ChatTemplate, TemplateRenderer;"
        "os.chdir(sys.argv[1]);"
        "renderer = TemplateRenderer(ChatTemplate('a', 'text'), '', '');"
        "print(renderer.render([{'messages': [], 'add_generation_prompt': True}]));"
        "renderer.close()"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout == "['text']\n", done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "a folder"])
def test_a_template_file_that_cannot_be_read(content, model, refused, tmp_path: Path) -> None:
    path = tmp_path / "my.jinja"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert "my.jinja" in refused(model("meta"), "--template", str(path))


def test_chat_template_jinja_that_is_a_folder(model, refused) -> None:
    folder = model("hugging_face")
    (folder / "chat_template.jinja").mkdir()
    assert "chat_template.jinja" in refused(folder)
