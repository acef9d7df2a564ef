"""The demo model, split in three and merged again: the same answers, id by id."""

from pathlib import Path
from threading import Event as Flag

import torch

from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.checkpoint import open_checkpoint
from llama_cpu.loading.load import load
from llama_cpu.loading.plan import plan_loading
from tests.support.checkpoints import read_all, write_meta
from tests.support.engine import GREEDY
from tests.support.merging import merge

QUESTIONS = ["What is the capital of France?", "And of Germany?"]


def answers(path: Path, demo_model: Path) -> list[list[int]]:
    """Ids of the answers of one conversation; the vocabulary is the GGUF file's."""
    loaded = load(plan_loading(path, demo_model, max_seq_len=512), lambda *_: None, Flag())
    template = choose_template(None, loaded.tokenizer, loaded.plan.name)
    session = ChatSession(loaded, template, GREEDY, 24)
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
    for file_format in ("pth", "safetensors"):
        arguments = ("--input_dir", split, "--format", file_format)
        assert merge(*arguments, "--output_dir", tmp_path / file_format) == 0
    expected = answers(demo_model, demo_model)
    assert all(expected)
    assert answers(tmp_path / "pth", demo_model) == expected
    weights, others = read_all(tmp_path / "pth"), read_all(tmp_path / "safetensors")
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
