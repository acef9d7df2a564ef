"""Random damage, always the same: a file is used, or one sentence says why it is not.

``python -m tests.fuzz`` runs the same with other seeds and any number of files.
"""

import pytest

from tests.support.fuzzing import Target, attack, targets

CASES = 25  # of each kind of file
NAMES = (
    "meta/params.json",
    "meta/consolidated.00.pth",
    "meta/tokenizer.model",
    "shards/consolidated.01.pth",
    "hugging_face/config.json",
    "hugging_face/model.safetensors",
    "hugging_face/tokenizer.json",
    "bin/pytorch_model.bin",
    "gpt2/m.gguf",
    "llama/m.gguf",
    "history/history.db",
    "export/conversation.json",
    "cache-torch.float32/kv.safetensors",
    "cache-torch.int8/kv.safetensors",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    made = targets(tmp_path_factory.mktemp("fuzz"))
    assert [target.name for target in made] == list(NAMES)
    return {target.name: target for target in made}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_random_damage(name: str, files: dict[str, Target], capfd) -> None:
    outcomes = {seed: attack(files[name], seed) for seed in range(CASES)}
    assert not {seed: outcome for seed, outcome in outcomes.items() if outcome}
    assert "panicked" not in capfd.readouterr().err
