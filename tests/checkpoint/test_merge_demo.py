"""The demo model, split in three and merged again: the same answers, id by id."""

from pathlib import Path
from threading import Event as Flag

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.loading import load, plan_loading
from tests.support.checkpoints import read_all, write_meta
from tests.support.engine import GREEDY
from tests.support.merging import merge

QUESTIONS = ["What is the capital of France?", "And of Germany?"]


def answers(path: Path, demo_model: Path) -> list[list[int]]:
    """Ids of the answers of one conversation; the vocabulary is the GGUF file's."""
    loaded = load(plan_loading(path, demo_model, max_seq_len=512), lambda *_: None, Flag())
    template = choose_template(None, loaded.tokenizer, loaded.plan.name)
    session = ChatSession(loaded, template, GREEDY, 32)
    for question in QUESTIONS:
        session.add_user(question)
        for _ in session.answer(Flag()):
            pass
    session.close()
    return [list(m.token_ids) for m in session.messages if m.role == "assistant"]


def test_split_in_three_merged_and_chatted_with(demo_model: Path, tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    write_meta(whole, open_checkpoint(demo_model).config, read_all(demo_model))
    assert merge("--split", 3, "--input_dir", whole, "--output_dir", split) == 0
    expected = answers(demo_model, demo_model)
    assert all(expected)
    for file_format in ("pth", "safetensors"):
        merged = tmp_path / file_format
        arguments = ("--input_dir", split, "--format", file_format)
        assert merge(*arguments, "--output_dir", merged) == 0
        assert answers(merged, demo_model) == expected
