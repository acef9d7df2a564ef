"""Another model for a conversation: what is checked, what is kept, what is let go."""

import argparse
import gc
import shutil
import time
import weakref
from pathlib import Path
from threading import Event as Flag

import pytest
import torch

from llama_cpu.chat.choose_model import ChooseModel, model_chooser
from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session import ChatSession
from llama_cpu.cli.main import command_parser
from llama_cpu.errors import UserError
from llama_cpu.history.store import History
from llama_cpu.loading.plan import plan_from_arguments
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.int8 import INT8
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.vocabularies import sentencepiece_model

GIB = 1 << 30


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_model(tmp_path / "one")


def write_model(folder: Path) -> Path:
    config = tiny_config(dim=32, n_layers=2, n_heads=4, n_kv_heads=4, hidden_dim=32)
    write_meta(folder, config, random_weights(config))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    return folder


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(History(None))


def options(one: Path, *words: str) -> argparse.Namespace:
    words = ("--ckpt_dir", str(one), "--max_gen_len", "3", "--seed", "1", *words)
    return command_parser("chat", "x").parse_args(words)


def chooser(one: Path, conversation: Conversation, *words: str) -> ChooseModel:
    args = options(one, *words)
    return model_chooser(args, plan_from_arguments(args), conversation)


def opened(choose: ChooseModel, path: Path, name: str, free: int | None = 100 * GIB) -> ChatSession:
    choice = choose(path, name, FLOAT32, free)
    return choice.open_session(lambda *_: None, Flag())


def test_the_conversation_goes_on_and_its_ids_do_not(
    one: Path, tmp_path: Path, conversation: Conversation
) -> None:
    other = Path(shutil.copytree(one, tmp_path / "other"))
    choose = chooser(one, conversation, "--template", "chatml")
    first = opened(choose, one, "one")
    first.add_user("hi")
    list(first.answer(Flag()))
    assert first.messages[-1].token_ids
    second = opened(choose, other, "another name")
    assert second.model_name == conversation.model == "another name"
    assert [message.text for message in second.messages] == [
        each.text for each in conversation.line
    ]
    assert second.messages[-1].token_ids == []
    second.add_user("and?")
    list(second.answer(Flag()))
    assert len(conversation.line) == 4 and second.messages[-1].token_ids
    first.let_go()
    second.let_go()


def test_what_is_let_go_is_free_and_can_be_loaded_again(
    one: Path, conversation: Conversation
) -> None:
    choose = chooser(one, conversation)
    session = opened(choose, one, "one")
    session.add_user("hi")
    list(session.answer(Flag()))
    model = weakref.ref(session.loaded.model)
    cache = weakref.ref(session.loaded.cache)
    assert session.freeable_bytes > 0
    session.let_go()
    gc.collect()
    deadline = time.monotonic() + 60
    while model() is not None or cache() is not None:  # a thread of the kernels may be late
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert session.model_name == "one"
    again = opened(choose, one, "one", free=None)
    assert list(again.messages) and again.loaded.model is not None
    again.close()


def test_the_options_of_the_start_belong_to_its_model(
    one: Path, tmp_path: Path, conversation: Conversation
) -> None:
    other = Path(shutil.copytree(one, tmp_path / "other"))
    choose = chooser(one, conversation, "--max_seq_len", "64", "--threads", "1")
    assert choose(one, "one", INT8, GIB).plan.max_seq_len == 64
    choice = choose(other, "o", BF16, GIB)
    assert (choice.plan.max_seq_len, choice.plan.threads) == (64, 1)
    assert choice.plan.precision is BF16 and choice.needed > 0


def test_the_type_of_the_cache_stays_as_started(
    one: Path, tmp_path: Path, conversation: Conversation
) -> None:
    other = Path(shutil.copytree(one, tmp_path / "other"))
    needed = {}
    for words in ((), ("--kv_int8",), ("--kv_int8", "--no_kv_int8")):
        choice = chooser(one, conversation, *words)(other, "o", FLOAT32, 100 * GIB)
        assert choice.plan.kv_int8 == (words == ("--kv_int8",))
        needed[choice.plan.kv_int8] = choice.needed
    config = choice.plan.checkpoint.config
    saved = [config.kv_cache_bytes(512, each) for each in (torch.float32, torch.int8)]
    buffer = 2 * 512 * config.kv_dim * 4
    assert needed[False] - needed[True] == saved[0] - saved[1] - buffer


def test_what_is_wrong_is_known_before_anything_is_let_go(
    one: Path, tmp_path: Path, conversation: Conversation
) -> None:
    choose = chooser(one, conversation)
    with pytest.raises(UserError, match="too little"):
        choose(one, "one", FLOAT32, 1000)
    with pytest.raises(UserError, match="does not exist"):
        choose(tmp_path / "gone", "gone", FLOAT32, GIB)
    bare = Path(shutil.copytree(one, tmp_path / "bare"))
    (bare / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        choose(bare, "bare", FLOAT32, GIB)
    assert conversation.line == []


def test_force_goes_on_all_the_same(one: Path, conversation: Conversation) -> None:
    assert chooser(one, conversation, "--force")(one, "one", FLOAT32, 0).plan.name == "one"
