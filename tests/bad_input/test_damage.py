"""Random damage, always the same: the model opens, or one sentence says why it does not."""

import contextlib
import random

import pytest

from llama_cpu.errors import UserError
from llama_cpu.loading.plan import plan_loading

FILES = {
    "params.json": "meta",
    "consolidated.00.pth": "meta",
    "tokenizer.model": "meta",
    "consolidated.02.pth": "shards",
    "config.json": "hugging_face",
    "model.safetensors": "hugging_face",
    "tokenizer.json": "hugging_face",
    "pytorch_model.bin": "bin",
    "model.safetensors.index.json": "indexed",
    "m.gguf": "gpt2",
}
CASES = 40
HEAD = 8192  # bytes at either end of a file, where the tables of contents are
EDGES = (0, 1, 0x7F, 0x80, 0xFF)


def damaged(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(min(HEAD, len(data)))
        place = place if chance.random() < 0.5 else len(data) - 1 - place
        flipped = changed[place] ^ 1 << chance.randrange(8)
        changed[place] = flipped if chance.random() < 0.6 else chance.choice(EDGES)
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_random_damage(name: str, model) -> None:
    path = model(FILES[name]) / name
    source = path if path.suffix == ".gguf" else path.parent
    data = path.read_bytes()
    chance = random.Random(name)
    for _ in range(CASES):
        path.write_bytes(damaged(data, chance))
        with contextlib.suppress(UserError):
            plan_loading(source)
