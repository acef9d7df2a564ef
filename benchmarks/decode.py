"""Speed of the engine at the width of LLaMA 7B, float32 and bfloat16, beside transformers.

Random weights, the same for all; prefill of one prompt, then decode, the sides taking turns.

    python -m benchmarks.decode --layers 4
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, LlamaForCausalLM

from llama_cpu.config import ModelConfig
from llama_cpu.loading import LAYER_GROUPS
from llama_cpu.machine import physical_cores
from llama_cpu.transformer.kv_cache import KVCache
from llama_cpu.transformer.llama import Block, Llama
from tests.support.checkpoints import Weights, random_weights
from tests.support.reference import reference_model

PROMPT = list(range(100, 356))
CONTEXT = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(physical_cores())
    config = ModelConfig(
        dim=4096,
        n_layers=args.layers,
        n_heads=32,
        n_kv_heads=32,
        head_dim=128,
        hidden_dim=11008,
        vocab_size=32000,
        norm_eps=1e-5,
        rope_theta=10000.0,
        context_length=CONTEXT,
    )
    weights = random_weights(config)
    in_bf16 = {name: w.bfloat16() if w.dim() > 1 else w for name, w in weights.items()}
    sides = {
        "transformers float32": run_transformers(reference_model(config, weights)),
        "float32": run_engine(config, weights, torch.float32),
        "bf16": run_engine(config, in_bf16, torch.bfloat16),
    }
    measure(sides, args.rounds)


def run_engine(config: ModelConfig, weights: Weights, dtype: torch.dtype) -> Callable:
    weights = side_by_side(weights, config)
    blocks = [Block(config, weights, f"layers.{layer}.") for layer in range(config.n_layers)]
    model = Llama(config, weights, blocks, CONTEXT)
    cache = KVCache(config, CONTEXT, dtype)

    def run(count: int) -> tuple[float, list[float]]:
        cache.reuse([])
        began = time.perf_counter()
        model.forward(PROMPT, cache)
        prefill = time.perf_counter() - began
        return prefill, [timed(lambda: model.forward([7], cache)) for _ in range(count)]

    return run


def side_by_side(weights: Weights, config: ModelConfig) -> Weights:
    """As the loader lays them out."""
    weights = dict(weights)
    for layer in range(config.n_layers):
        for group in LAYER_GROUPS:
            names = [f"layers.{layer}.{kind}.weight" for kind in group]
            whole = torch.cat([weights[name] for name in names])
            rows = [weights[name].shape[0] for name in names]
            weights |= dict(zip(names, whole.split(rows), strict=True))
    return weights


def run_transformers(model: LlamaForCausalLM) -> Callable:
    @torch.inference_mode()
    def run(count: int) -> tuple[float, list[float]]:
        cache = DynamicCache()

        def forward(ids: list[int]) -> None:
            model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)

        prefill = timed(lambda: forward(PROMPT))
        return prefill, [timed(lambda: forward([7])) for _ in range(count)]

    return run


def timed(work: Callable) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(sides: dict[str, Callable], rounds: int) -> None:
    prefills: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            prefill, decode = run(12)
            if round_:  # the first warms up
                prefills[name].append(prefill)
                tokens[name] += decode
    peer = next(iter(sides))
    print(f"{'':22} {'prefill':>10} {'ratio':>6} {'decode':>11} {'ratio':>6}   (tokens a second)")
    for name in sides:
        prefill = len(PROMPT) / statistics.median(prefills[name])
        decode = 1 / statistics.median(tokens[name])
        prefill_ratio = statistics.median(prefills[peer]) / statistics.median(prefills[name])
        decode_ratio = statistics.median(tokens[peer]) / statistics.median(tokens[name])
        print(f"{name:22} {prefill:10.1f} {prefill_ratio:6.2f} {decode:11.2f} {decode_ratio:6.2f}")


if __name__ == "__main__":
    main()
