"""Worker for our engine, with the same loader and generator as the chat."""

import statistics
from functools import cache
from pathlib import Path
from threading import Event as Flag

from benchmarks.workers.protocol import Options, Run, Task, Times, prompt_ids, serve
from llama_cpu.bench.machine_speed import MemoryReader
from llama_cpu.system.memory import memory_report
from llama_cpu.system.process import prepare_for_torch


def load(options: Options) -> tuple[str, Run]:
    prepare_for_torch()
    import llama_cpu
    from llama_cpu.generation.events import Token
    from llama_cpu.generation.generate import Limits, TextGenerator
    from llama_cpu.generation.sampling import Sampler, Sampling
    from llama_cpu.generation.speculative_decoding import DraftLength
    from llama_cpu.generation.timings import Timings
    from llama_cpu.loading.load import load as load_model
    from llama_cpu.loading.plan import plan_loading
    from llama_cpu.weights.formats import format_of

    plan = plan_loading(
        Path(options.model),
        precision=format_of(options.precision),
        max_seq_len=options.context,
        threads=options.threads,
    )
    loaded = load_model(plan, lambda done, total, name: None, Flag())

    class Wrong(DraftLength):
        """Proposes the same number of tokens in each pass, all of them wrong."""

        def choose(self) -> int:
            return self._lengths[-1]

        def propose(self, context: list[int], count: int) -> list[int]:
            return [0] * count

    @cache
    def memory_reader() -> MemoryReader:
        return MemoryReader(options.threads)

    greedy = Sampling(temperature=0.0)

    def run(task: Task) -> Times:
        ids = prompt_ids(task.prompt)
        wrong = Wrong(task.rows - 1)
        generator = TextGenerator(loaded.model, loaded.cache, loaded.tokenizer, lambda: wrong)
        generator.draft_length = wrong
        loaded.cache.reuse([*ids[: task.keep], -1])  # drops all other tokens from the cache
        timings = Timings()
        reader = memory_reader() if task.reads else None  # allocates before the first token
        limits = Limits(task.decode + 1, frozenset())
        reads: list[float] = []  # seconds
        for event in generator.generate(ids, Sampler(greedy), limits, Flag()):
            timings.observe(event)
            if reader and isinstance(event, Token):
                reads.append(reader.nbytes / reader())
        assert timings.reused_tokens == task.keep
        assert timings.time_to_first_token is not None
        decode, figures = timings.token_seconds[1:], memory()
        if reads:
            # The time of a token begins with the previous token, so it includes the reading.
            decode = [token - reading for token, reading in zip(decode, reads, strict=False)]
            figures["read"] = memory_reader().nbytes / statistics.median(reads)
        return Times(timings.time_to_first_token, decode, figures)

    def memory() -> dict:
        used = loaded.cache.most_used * loaded.cache.bytes_per_token
        return {"peak": memory_report().peak, "weights": loaded.weights_bytes, "kv_cache": used}

    return llama_cpu.__version__, run


if __name__ == "__main__":
    serve(load)
