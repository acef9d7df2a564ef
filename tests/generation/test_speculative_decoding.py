"""Proposed tokens change how fast an answer comes, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

import pytest
import torch
from torch import Tensor

from llama_cpu.errors import UserError
from llama_cpu.generation.events import Finished, StopReason, Token
from llama_cpu.generation.generate import Limits, TextGenerator
from llama_cpu.generation.repetition import PROSE_TOKENS
from llama_cpu.generation.sampling import Sampler, Sampling
from llama_cpu.generation.speculative_decoding import (
    Drafter,
    DraftLength,
    LookupDrafter,
    ModelDrafter,
    vocabularies_differ,
)
from llama_cpu.generation.timings import Timings
from llama_cpu.loading.load import LoadedModel
from llama_cpu.loading.plan import plan_loading
from llama_cpu.weights.bf16 import BF16
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.int8 import INT8
from llama_cpu.weights.int8_linear import packing_works
from tests.support.checkpoints import random_weights, tiny_config, write_meta
from tests.support.engine import ByteTokenizer, load_tiny
from tests.support.operators import FixedOperators

PROMPT = [256, *b"to be or not to be that is the question: to be or not"]
LONGEST = 7


class Always(DraftLength):
    """Proposes as many as it may."""

    def choose(self) -> int:
        return LONGEST


class Oracle:
    """Knows the answer, but for every third token."""

    def __init__(self, answer: list[int]) -> None:
        self.whole = PROMPT + answer

    def propose(self, context: list[int], count: int) -> list[int]:
        start = len(context)
        right = self.whole[start : start + count]
        return [(id_ + (start + place) % 3 // 2) % 256 for place, id_ in enumerate(right)]


class Babbler:
    """Is always wrong, or nearly so."""

    def propose(self, context: list[int], count: int) -> list[int]:
        return [(context[-1] + place) % 256 for place in range(count)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny(tiny_folder(tmp_path_factory.mktemp("tiny")))


def tiny_folder(folder: Path, seed: int = 0) -> Path:
    config = tiny_config(n_kv_heads=2)
    return write_meta(folder, config, random_weights(config, seed))


def answer_events(
    loaded: LoadedModel,
    new_drafter: Callable[[], Drafter] | None,
    sampling: Sampling,
    limits: Limits | None = None,
) -> list:
    generator = TextGenerator(
        loaded.model, loaded.cache, loaded.tokenizer, new_drafter, LONGEST if new_drafter else 0
    )
    generator.draft_length = Always(LONGEST)
    loaded.cache.reuse([])
    limits = limits or Limits(60, end_ids=frozenset())
    return list(generator.generate(PROMPT, Sampler(sampling), limits, Flag()))


def ids_of(events: list) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


def passes_of(events: list) -> int:
    return sum(isinstance(event, Token) and not event.drafted for event in events)


@pytest.mark.parametrize("drafter", ["lookup", "oracle", "babbler"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(temperature=1.5, top_p=1.0, seed=3),
        Sampling(temperature=0.8, top_k=20, repetition_penalty=1.3, seed=4),
    ],
    ids=["greedy", "hot", "penalty"],
)
def test_the_same_answer_with_and_without(
    drafter: str, sampling: Sampling, loaded: LoadedModel
) -> None:
    plain = answer_events(loaded, None, sampling)
    expected = ids_of(plain)
    drafters: dict[str, Callable[[], Drafter]] = {
        "lookup": LookupDrafter,
        "oracle": lambda: Oracle(expected),
        "babbler": Babbler,
    }
    events = answer_events(loaded, drafters[drafter], sampling)
    assert ids_of(events) == expected
    assert [e.text for e in events if isinstance(e, Token)] == [
        e.text for e in plain if isinstance(e, Token)
    ]
    assert loaded.cache.token_ids == PROMPT + expected[:-1]
    if drafter == "oracle":
        assert passes_of(events) < 0.5 * len(expected)
    assert passes_of(plain) == len(expected)


@pytest.mark.skipif(not packing_works(), reason="needs a processor with exact int8 products")
def test_int8_greedy_is_the_same_with_and_without(tmp_path: Path) -> None:
    loaded = load_tiny(tiny_folder(tmp_path), precision=INT8)
    greedy = Sampling(temperature=0.0)
    expected = ids_of(answer_events(loaded, None, greedy))
    assert ids_of(answer_events(loaded, lambda: Oracle(expected), greedy)) == expected


def test_an_int8_cache_with_and_without(tmp_path: Path) -> None:
    loaded = load_tiny(tiny_folder(tmp_path), kv_int8=True)
    greedy = Sampling(temperature=0.0)
    expected = ids_of(answer_events(loaded, None, greedy))
    events = answer_events(loaded, lambda: Oracle(expected), greedy)
    assert ids_of(events) == expected
    assert loaded.cache.token_ids == PROMPT + expected[:-1]


@pytest.mark.parametrize("seed", range(5))
def test_the_sampler_is_left_as_without(seed: int, loaded: LoadedModel) -> None:
    """The next answer of the same sampler draws the same random numbers."""
    answers = []
    expected = ids_of(answer_events(loaded, None, Sampling(temperature=1.0, seed=seed)))
    for new_drafter in (None, lambda: Oracle(expected)):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        generator = TextGenerator(
            loaded.model, loaded.cache, loaded.tokenizer, new_drafter, LONGEST
        )
        generator.draft_length = Always(LONGEST)
        limits = Limits(30, end_ids=frozenset({expected[10]}))
        first = ids_of(list(generator.generate(PROMPT, sampler, limits, Flag())))
        limits = Limits(30, end_ids=frozenset())
        second = ids_of(list(generator.generate(PROMPT[:20], sampler, limits, Flag())))
        answers.append((first, second))
    assert answers[0] == answers[1]


class Stuck(Sampler):
    """Always chooses the same letter."""

    def sample(self, logits: Tensor, context_ids: list[int]) -> int:
        return ord("a")


@pytest.mark.parametrize("new_drafter", [None, LookupDrafter, Babbler])
def test_a_loop_ends_where_it_is_asked_for(
    new_drafter: Callable[[], Drafter] | None, loaded: LoadedModel
) -> None:
    generator = TextGenerator(
        loaded.model, loaded.cache, loaded.tokenizer, new_drafter, LONGEST if new_drafter else 0
    )
    for end_loops, count, reason in [
        (True, PROSE_TOKENS, StopReason.REPETITION),
        (False, 80, StopReason.LENGTH),
    ]:
        limits = Limits(80, frozenset(), end_loops=end_loops)
        events = list(generator.generate(PROMPT[:20], Stuck(Sampling()), limits, Flag()))
        assert len(ids_of(events)) == count and events[-1] == Finished(reason)


def test_every_way_to_end_is_the_same(loaded: LoadedModel) -> None:
    greedy = Sampling(temperature=0.0)
    expected = ids_of(answer_events(loaded, None, greedy))
    text = loaded.tokenizer.decode(expected)
    first_of_id = next(n for n, id_ in enumerate(expected) if expected.index(id_) == n and n > 9)
    cases = [
        (Limits(60, frozenset({expected[first_of_id]})), StopReason.END),
        (Limits(60, frozenset(), (text[20:23],)), StopReason.STOP_STRING),
        (Limits(13, frozenset()), StopReason.LENGTH),
        (Limits(100_000, frozenset()), StopReason.CONTEXT),
    ]
    for limits, reason in cases:
        plain = answer_events(loaded, None, greedy, limits)
        plain_cache = list(loaded.cache.token_ids)
        events = answer_events(loaded, lambda: Oracle(expected), greedy, limits)
        assert ids_of(events) == ids_of(plain)
        assert isinstance(events[-1], Finished)
        assert events[-1] == plain[-1]
        assert events[-1].reason is reason
        assert loaded.cache.token_ids == plain_cache


def test_a_model_that_drafts_for_itself_is_always_right(loaded: LoadedModel, tmp_path) -> None:
    draft = load_tiny(tiny_folder(tmp_path))
    greedy = Sampling(temperature=0.0)
    expected = ids_of(answer_events(loaded, None, greedy))
    drafter = ModelDrafter(draft.model, draft.cache)
    events = answer_events(loaded, lambda: drafter, greedy)
    assert ids_of(events) == expected
    assert passes_of(events) <= 2 + len(expected) // (LONGEST + 1)
    timings = Timings()
    for event in events:
        timings.observe(event)
    assert timings.tokens_per_pass == len(expected) / passes_of(events)


def test_another_model_drafts(loaded: LoadedModel, tmp_path: Path) -> None:
    draft = load_tiny(tiny_folder(tmp_path, seed=1), max_seq_len=80)
    drafter = ModelDrafter(draft.model, draft.cache)
    greedy = Sampling(temperature=0.0)
    expected = ids_of(answer_events(loaded, None, greedy))
    assert ids_of(answer_events(loaded, lambda: drafter, greedy)) == expected
    assert drafter.propose(list(range(79)), 2) == []  # beyond its context


def test_a_draft_model_reads_a_long_prompt_chunk_by_chunk(tmp_path: Path) -> None:
    draft = load_tiny(tiny_folder(tmp_path))
    draft.model.prefill_chunk = 16
    drafter = ModelDrafter(draft.model, draft.cache)
    context = list(range(40))
    assert drafter.propose(context, 3) == []
    assert drafter.cache.token_ids == context[:16]
    assert drafter.propose([*context, 40], 3) == []
    proposal = drafter.propose([*context, 40, 41], 3)
    assert len(proposal) == 3
    assert drafter.cache.token_ids == [*context, 40, 41, *proposal[:2]]


def test_lookup_proposes_what_followed() -> None:
    assert LookupDrafter().propose([1, 2, 3, 4, 5, 1, 2, 3], 2) == [4, 5]
    assert LookupDrafter().propose([1, 2, 3, 4, 5, 6], 2) == []
    assert LookupDrafter().propose([1, 2], 2) == []


def test_lookup_takes_the_last_place() -> None:
    assert LookupDrafter().propose([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 1) == [8]


def test_lookup_goes_round_with_the_text() -> None:
    assert LookupDrafter().propose([1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]
    assert LookupDrafter().propose([5, 5, 5, 5], 4) == [5, 5, 5, 5]


def test_lookup_reads_on() -> None:
    drafter = LookupDrafter()
    context = [1, 2, 3, 4]
    assert drafter.propose(context, 1) == []
    context += [9, 1, 2, 3]
    assert drafter.propose(context, 1) == [4]


def taught(length: DraftLength, row_cost: float, acceptance: Callable[[int], int]) -> list[int]:
    """What is chosen over 300 passes in which each row more costs that share of a pass."""
    chosen = []
    for number in range(300):
        proposed = length.choose()
        chosen.append(proposed)
        accepted = min(proposed, acceptance(number))
        length.observe(proposed, accepted, 1.0 + row_cost * proposed)
    return chosen


def test_free_rows_are_used() -> None:
    chosen = taught(DraftLength(7), 0.02, lambda number: 7)
    assert chosen[0] == 0  # the cost of a plain pass has to be known
    assert chosen[-100:] == [7] * 100


def test_what_is_never_right_is_hardly_tried() -> None:
    chosen = taught(DraftLength(7), 0.3, lambda number: 0)
    assert sum(proposed > 0 for proposed in chosen[-200:]) < 40
    assert any(chosen[-200:])  # but now and then, as the text may have changed


def test_dear_rows_step_back_although_they_are_right() -> None:
    chosen = taught(DraftLength(7), 1.5, lambda number: 7)
    assert sum(chosen[-100:]) == 0


def test_half_right_proposes_few() -> None:
    chosen = taught(DraftLength(7), 0.25, lambda number: number % 2)
    assert 0 < sum(chosen[-100:]) / 100 <= 3


def test_vocabularies() -> None:
    assert not vocabularies_differ(ByteTokenizer(), ByteTokenizer())
    assert vocabularies_differ(ByteTokenizer(), ByteTokenizer(321))
    other = ByteTokenizer()
    other.special_tokens = {"<s>": 257, "</s>": 256}
    assert vocabularies_differ(ByteTokenizer(), other)


def test_a_draft_model_of_another_family_is_refused(demo_model: Path, tmp_path: Path) -> None:
    import gguf

    from tests.support.checkpoints import write_gguf
    from tests.support.vocabularies import gguf_vocabulary

    config = tiny_config()
    path = write_gguf(
        tmp_path / "other.gguf",
        config,
        random_weights(config),
        gguf.GGMLQuantizationType.F32,
        vocabulary=gguf_vocabulary(),
    )
    with pytest.raises(UserError, match="another vocabulary"):
        plan_loading(demo_model, draft_ckpt_dir=path)


def test_the_plan_chooses_lookup_by_the_products(demo_model: Path) -> None:
    several, one = FixedOperators(float32="plain", bf16="packed"), FixedOperators(bf16="widened")
    assert plan_loading(demo_model, precision=FLOAT32, operators=several).lookup
    assert not plan_loading(demo_model, precision=BF16, lookup=False, operators=several).lookup
    assert plan_loading(demo_model, precision=BF16, operators=several).lookup
    assert not plan_loading(demo_model, precision=BF16, operators=one).lookup
    assert plan_loading(demo_model, precision=BF16, lookup=True, operators=one).lookup


def test_a_draft_model_is_loaded_beside(demo_model: Path) -> None:
    from llama_cpu.loading.load import load

    plan = plan_loading(demo_model, draft_ckpt_dir=demo_model, precision=INT8)
    assert plan.draft is not None
    plan = replace(plan, max_seq_len=256, draft=replace(plan.draft, max_seq_len=256))
    loaded = load(plan, lambda *_: None, Flag())
    generator = TextGenerator(
        loaded.model, loaded.cache, loaded.tokenizer, loaded.new_drafter, loaded.longest_draft
    )
    generator.draft_length = Always(4)
    prompt = loaded.tokenizer.encode_prompt("One two three four")
    limits = Limits(24, end_ids=frozenset())
    events = list(generator.generate(prompt, Sampler(Sampling(temperature=0.0)), limits, Flag()))
    assert passes_of(events) <= 10
    torch.set_num_threads(2)
