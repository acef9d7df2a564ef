"""Shards written by the layers that Meta's were written by, merged, compute the same.

Two processes run a LLaMA block of fairscale's parallel layers on gloo and save their shards;
the merged file, in plain PyTorch, gives the same output.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.support.merging import ROOT, load_merged, merge

RANKS = 2
DIM, HIDDEN, VOCAB, SEED = 64, 176, 320, 7
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [300, 5, 3, 5, 8, 319, 7, 0]])

COLUMN = ("wq", "wk", "wv", "w1", "w3", "output")
SHAPES = {
    "wq": (DIM, DIM),
    "wk": (DIM, DIM),
    "wv": (DIM, DIM),
    "wo": (DIM, DIM),
    "w1": (DIM, HIDDEN),
    "w2": (HIDDEN, DIM),
    "w3": (DIM, HIDDEN),
    "output": (DIM, VOCAB),
}


def block(x, wq, wk, wv, wo, w1, w2, w3, output):
    """The linear part of a LLaMA layer; attention itself mixes no columns of these matrices."""
    x = x + wo(torch.tanh(wq(x)) * wk(x) + wv(x))
    x = x + w2(F.silu(w1(x)) * w3(x))
    return output(x)


def checkpoint_name(name: str) -> str:
    if name == "output":
        return "output.weight"
    part = "feed_forward" if name in ("w1", "w2", "w3") else "attention"
    return f"layers.0.{part}.{name}.weight"


def run_rank(rank: int, port: int, parent: Path) -> None:
    """What one of the processes does: the model with either embedding, each into its folder."""
    import fairscale.nn.model_parallel as mp
    from fairscale.nn.model_parallel.layers import ParallelEmbedding, VocabParallelEmbedding

    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=RANKS)
    mp.initialize_model_parallel(RANKS)
    for folder, kind in (("width", ParallelEmbedding), ("vocabulary", VocabParallelEmbedding)):
        torch.manual_seed(SEED)  # each layer makes the whole matrix and keeps its part
        save_shard(rank, parent / folder, kind(VOCAB, DIM))
    torch.distributed.barrier()  # a process that ends ends the connections of the other
    torch.distributed.destroy_process_group()  # or its threads run on while the process ends


def save_shard(rank: int, folder: Path, embed: torch.nn.Module) -> None:
    from fairscale.nn.model_parallel.layers import ColumnParallelLinear, RowParallelLinear

    column = {"bias": False, "gather_output": True}
    row = {"bias": False, "input_is_parallel": False}
    layers = {
        name: ColumnParallelLinear(*shape, **column)
        if name in COLUMN
        else RowParallelLinear(*shape, **row)
        for name, shape in SHAPES.items()
    }
    with torch.inference_mode():
        result = block(embed(IDS), **layers)
    shard = {checkpoint_name(name): layer.weight.detach() for name, layer in layers.items()}
    shard["tok_embeddings.weight"] = embed.get_parameter("weight").detach()
    for name in ("layers.0.attention_norm.weight", "layers.0.ffn_norm.weight", "norm.weight"):
        shard[name] = torch.ones(DIM)
    torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    if rank == 0:
        torch.save(result, folder / "result.pt")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("fairscale")
    params = {"dim": DIM, "n_layers": 1, "n_heads": 4, "norm_eps": 1e-5, "vocab_size": -1}
    for name in ("width", "vocabulary"):
        (parent / name).mkdir()
        (parent / name / "params.json").write_text(json.dumps(params))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.conversion.test_merge_fairscale"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(port), str(parent)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    for rank in ranks:
        printed, _ = rank.communicate(timeout=300)
        assert rank.returncode == 0, printed
    return parent


@pytest.mark.parametrize("embedding", ["width", "vocabulary"])
def test_merged_weights_compute_what_the_parallel_run_computed(
    embedding: str, shards: Path, tmp_path: Path
) -> None:
    folder = shards / embedding
    assert merge("--input_dir", folder, "--output_dir", tmp_path / "out", "--verify") == 0
    merged = load_merged(tmp_path / "out")
    linear = {
        name: torch.nn.Linear(*shape, bias=False).requires_grad_(False)
        for name, shape in SHAPES.items()
    }
    for name, layer in linear.items():
        layer.weight.copy_(merged[checkpoint_name(name)])
    result = block(F.embedding(IDS, merged["tok_embeddings.weight"]), **linear)
    torch.testing.assert_close(result, torch.load(folder / "result.pt"), rtol=1e-5, atol=1e-5)
    assert merged["tok_embeddings.weight"].shape == (VOCAB, DIM)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
