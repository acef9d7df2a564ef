"""The team of threads: many passes in a row, threads that are late, and models that come and go."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_cpu.kernels import layout
from llama_cpu.kernels.linear import FewRows, KernelMatrix
from llama_cpu.kernels.team import Team, team
from llama_cpu.model.fused import FusedPass, fuse
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from tests.support.engine import load_tiny
from tests.support.families import random_model, save

ROOT = Path(__file__).parents[2]
PASSES = 2000
IDS = [(11 * index) % 320 for index in range(64)]


@pytest.fixture
def busy() -> Iterator[None]:
    """Other threads that want every core, so that threads of the team are often kept away."""
    stop = threading.Event()

    def work() -> None:
        matrix = torch.ones(64, 64)
        while not stop.is_set():
            for _ in range(200):
                matrix.sum()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


def random_product(seed: int, threads: int) -> tuple[FewRows, Callable[[Tensor], Tensor]]:
    out, columns = 8 + 37 * seed % 200, 8 * (1 + seed % 9)
    weight = torch.randn(out, columns, generator=torch.Generator().manual_seed(seed))
    product = FewRows(KernelMatrix("F32", weight, out, columns), threads)
    return product, lambda x: x @ weight.T


def test_products_that_are_dropped_after_each_pass(busy: None) -> None:
    for number in range(PASSES):
        product, exact = random_product(number, threads=4)
        x = torch.full((1 + number % 3, product.table[layout.DIM]), 0.5)
        result = product(x)
        assert torch.allclose(result, exact(x), rtol=1e-4, atol=1e-4), number
        del product, exact, result


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder = tmp_path_factory.mktemp("tiny")
    model = random_model("llama", num_hidden_layers=2)
    return load_tiny(save(model, folder), max_seq_len=64).model


def fused(model: Transformer, threads: int) -> tuple[FusedPass, KVCache]:
    cache = KVCache(model.config, 64, torch.float32)
    few = fuse(model, cache, threads)
    assert few is not None
    return few, cache


def plain_logits(model: Transformer) -> Tensor:
    """Logits after each of IDS."""
    model.few_tokens = None
    return model.forward(IDS, KVCache(model.config, 64, torch.float32), all_logits=True)


def test_passes_of_a_model_while_others_are_busy(busy: None, tiny: Transformer) -> None:
    exact = plain_logits(tiny)
    few, cache = fused(tiny, threads=4)
    for number in range(PASSES):
        if len(cache) == len(IDS):
            cache.truncate(0)
        start = len(cache)
        size = min(1 + number % 5, len(IDS) - start)
        tiny.few_tokens = few
        logits = tiny.forward(IDS[start : start + size], cache, all_logits=True)
        assert torch.allclose(logits, exact[start : start + size], atol=1e-4), number


def test_models_that_come_and_go(busy: None, tiny: Transformer) -> None:
    exact = plain_logits(tiny)
    for number in range(200):
        few, cache = fused(tiny, threads=4)
        tiny.few_tokens = few
        count = 1 + number % 15
        logits = tiny.forward(IDS[:count], cache, all_logits=True)
        tiny.few_tokens = None
        del few, cache
        gc.collect(0)
        assert torch.allclose(logits, exact[:count], atol=1e-4), number


def test_what_a_late_thread_looked_at_is_dropped_without_another_pass(busy: None) -> None:
    alive = []
    for number in range(20):
        product, _ = random_product(number, threads=4)
        product(torch.ones(3, product.table[layout.DIM]))
        alive.append(weakref.ref(product))
        del product
        deadline = time.monotonic() + 60
        while alive[-1]() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_two_callers_at_once(threads: int, tiny: Transformer) -> None:
    exact = plain_logits(tiny)
    few = [fused(tiny, threads) for _ in range(2)]
    wrong: list[int] = []

    def call(number: int) -> None:
        one_pass, _ = few[number]
        for index in range(300):
            position = index % len(IDS)
            with torch.inference_mode():
                x = tiny._embeddings(IDS[position : position + 1])
                logits = torch.empty(1, 320)
                one_pass(x, position, logits)
            if not torch.allclose(logits[0], exact[position], atol=1e-4):
                wrong.append(position)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_one_thread_starts_no_other() -> None:
    alone = Team(1)
    before = threading.active_count()
    product, exact = random_product(3, threads=1)
    x = torch.ones(2, product.table[layout.DIM])
    result = torch.empty(2, product.table[layout.OUTPUT + layout.OUTS])
    alone.run(product, 0, x, result)
    assert torch.allclose(result, exact(x), rtol=1e-4, atol=1e-4)
    assert threading.active_count() == before


def test_threads_that_slept_are_woken(tiny: Transformer) -> None:
    """After a tenth of a second without passes, they wait in Python."""
    exact = plain_logits(tiny)
    few, cache = fused(tiny, threads=4)
    for _ in range(3):
        cache.truncate(0)
        tiny.few_tokens = few
        assert torch.allclose(tiny.forward(IDS[:4], cache), exact[3], atol=1e-4)
        time.sleep(0.4)


def late(group: Team, slot: int, change: int) -> None:
    """Let the slot look as if a thread had not left its pass yet (1), or end that (-1)."""
    group._table[layout.SLOT + slot * layout.SLOT_FIELDS + layout.WORKERS] += change


def next_slot(group: Team) -> int:
    return (group._table[layout.PASS_NUMBER] + 1) % layout.SLOTS


def test_a_slot_that_a_late_thread_is_in_does_not_lose_its_memory() -> None:
    """Its memory may be freed only when the thread has left, not when a new pass wants the slot."""

    class Watched:
        def __init__(self, product: FewRows) -> None:
            self.table, self.stages = product.table, product.stages
            self.product = product

        def __del__(self) -> None:
            freed.append(workers())

    def workers() -> int:
        return group._slot(slot, layout.WORKERS)

    freed: list[int] = []
    group = Team(1)
    product, _ = random_product(1, threads=1)
    x = torch.ones(1, product.table[layout.DIM])
    result = torch.empty(1, product.table[layout.OUTPUT + layout.OUTS])
    group.run(product, 0, x, result)  # makes room for counters
    slot = next_slot(group)
    group._in_use[slot] = (Watched(product), x, result)  # of a pass that has ended
    late(group, slot, 1)
    runner = threading.Thread(target=group.run, args=(product, 0, x, result))
    runner.start()
    runner.join(0.2)
    assert runner.is_alive() and not freed
    late(group, slot, -1)
    runner.join()
    assert freed == [0]


def test_counters_are_not_replaced_under_a_late_thread() -> None:
    group = Team(1)
    product, _ = random_product(1, threads=1)
    x = torch.ones(1, product.table[layout.DIM])
    result = torch.empty(1, product.table[layout.OUTPUT + layout.OUTS])
    group.run(product, 0, x, result)
    counters = [table[layout.COUNTERS] for table in group._passes]
    last = group._table[layout.PASS_NUMBER] % layout.SLOTS
    late(group, last, 1)
    product.stages += 10
    runner = threading.Thread(target=group.run, args=(product, 0, x, result))
    runner.start()
    runner.join(0.2)
    assert runner.is_alive()
    assert [table[layout.COUNTERS] for table in group._passes] == counters
    late(group, last, -1)
    runner.join()
    assert [table[layout.COUNTERS] for table in group._passes] != counters


PROGRAM = """
import sys, threading, torch
from llama_cpu.kernels.linear import FewRows, KernelMatrix
from llama_cpu.kernels.team import team
weight = torch.ones(500, 64)
product = FewRows(KernelMatrix("F32", weight, 500, 64), 4)
for _ in range(50):
    assert product(torch.ones(1, 64)).eq(64).all()
print(len(team(4)._threads), flush=True)
"""


def test_the_program_ends_while_threads_look_for_passes() -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_stopped_threads_end() -> None:
    group = Team(3)
    product, _ = random_product(1, threads=3)
    x = torch.ones(1, product.table[layout.DIM])
    result = torch.empty(1, product.table[layout.OUTPUT + layout.OUTS])
    group.run(product, 0, x, result)
    assert len(group._threads) == 2
    group._stop()
    assert not any(thread.is_alive() for thread in group._threads)


def test_there_is_one_team_for_each_number_of_threads() -> None:
    assert team(2) is team(2)
    assert team(2) is not team(3)
