"""The speed of a loaded model: prefill, decode after several contexts, and passes of several rows.

Whatever is compared takes turns: our model, the machine's limits, llama.cpp. Each has one turn to
warm up, then one per round, and every second round is reversed. What fails is left out from then
on, and a note says so.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llama_cpu.bench.limits import Work
from llama_cpu.bench.machine_speed import READ_BYTES, MachineSpeed
from llama_cpu.bench.worker import Worker, WorkerFailed
from llama_cpu.loading.load import LoadedModel
from llama_cpu.model.config import ModelConfig
from llama_cpu.system.memory import available_memory
from llama_cpu.weights.linear import PREFILL_CHUNK

PROMPT = PREFILL_CHUNK  # tokens of the prefill, less if the context is shorter
_PASSES = 16  # decode passes of one turn
_ROWS = 8
_LIMITS_BYTES = READ_BYTES + (1 << 30)  # memory that the worker of the limits may need

Say = Callable[[str], None]  # shows what is being done
Turn = Callable[[], Any]


@dataclass(frozen=True)
class Speed:
    """One measured speed. ``tokens`` is the length of the prompt or of the context.

    Each list has the seconds of a prefill or of a decode pass. ``of_limit`` is the shortest
    possible time as a fraction of ours; None if the limits were not measured.
    """

    tokens: int
    tokens_at_once: int  # of each measured time: those of the prompt, or 1
    seconds: Sequence[float]
    llama_cpp_seconds: Sequence[float]  # empty without llama.cpp
    of_limit: float | None

    @property
    def rate(self) -> float:
        """Our tokens per second."""
        return self.tokens_at_once / statistics.median(self.seconds)

    @property
    def llama_cpp_rate(self) -> float | None:
        """Tokens per second of llama.cpp."""
        if not self.llama_cpp_seconds:
            return None
        return self.tokens_at_once / statistics.median(self.llama_cpp_seconds)

    @property
    def ratio(self) -> float | None:
        """Our speed relative to that of llama.cpp."""
        return self.rate / self.llama_cpp_rate if self.llama_cpp_rate else None


@dataclass(frozen=True)
class SeveralRows:
    """The median seconds of a pass of ``rows`` rows and of one row, after ``context`` tokens."""

    rows: int
    context: int
    seconds: float
    one_row: float

    @property
    def relative(self) -> float:
        """The time of several rows as a multiple of the time of one."""
        return self.seconds / self.one_row


@dataclass
class Results:
    """What was measured so far."""

    prefill: Speed | None = None
    decode: list[Speed] = field(default_factory=list)
    several_rows: SeveralRows | None = None
    # "read" in bytes per second, and a type's products in operations per second: all samples.
    limits: dict[str, list[float]] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)  # the fastest way of each limit
    llama_cpp: str = ""  # its version; "" if it was left out
    notes: list[str] = field(default_factory=list)


class OurModel:
    """The loaded model; its passes are timed with the choice of the most probable token."""

    def __init__(self, loaded: LoadedModel, prompt: Sequence[int]) -> None:
        self._model, self._cache, self._prompt = loaded.model, loaded.cache, list(prompt)

    def prefill(self, tokens: int) -> float:
        """Read the first tokens of the prompt into an empty KV cache; return the seconds."""
        self._cache.truncate(0)
        return self._seconds(self._prompt[:tokens])

    def decode(self, context: int, passes: int) -> list[float]:
        """Return the seconds of each pass over one token, after ``context`` tokens."""
        self._keep(context)
        return [self._seconds([self._prompt[context]]) for _ in range(passes)]

    def decode_rows(self, context: int, passes: int, rows: int) -> list[float]:
        """Return the seconds of each pass over several tokens, all after ``context`` others."""
        seconds = []
        for _ in range(passes):
            self._keep(context)
            seconds.append(self._seconds(self._prompt[context : context + rows]))
        return seconds

    def _keep(self, context: int) -> None:
        """Have the first ``context`` tokens of the prompt in the KV cache."""
        cached = self._cache.reuse([*self._prompt[:context], -1])
        for first in range(cached, context, PREFILL_CHUNK):
            last = min(first + PREFILL_CHUNK, context)
            self._model.forward(self._prompt[first:last], self._cache)

    def _seconds(self, ids: list[int]) -> float:
        is_several = 1 < len(ids) <= _ROWS
        began = time.perf_counter()
        self._model.forward(ids, self._cache, all_logits=is_several).argmax(-1)
        return time.perf_counter() - began


class Bench:
    """Measures one loaded model. ``results`` can be read at any time, also after Ctrl+C."""

    def __init__(self, loaded: LoadedModel, work: Work, rounds: int, say: Say) -> None:
        """``work``: of the model's plan, made before it was loaded."""
        self.results = Results()
        self._plan, self._work, self._rounds, self._say = loaded.plan, work, rounds, say
        size = self._plan.max_seq_len
        self._passes = min(_PASSES, size // 2)
        self._prompt = prompt_ids(size, self._plan.checkpoint.config.vocab_size)
        self._ours = OurModel(loaded, self._prompt)
        self._workers: dict[str, Worker] = {}  # "limits", "llama.cpp"; without those that failed

    def run(self, contexts: Sequence[int]) -> None:
        """Measure everything; ``contexts`` are cut to the model's context."""
        longest = self._plan.max_seq_len - self._passes
        lengths = sorted({min(context, longest) for context in contexts})
        if max(contexts) > longest:
            self._note(
                f"The context holds {self._plan.max_seq_len:,} tokens, so decode is measured after "
                f"{longest:,} at most; see --max_seq_len."
            )
        try:
            self._start("limits", self._start_limits)
            self._start("llama.cpp", self._start_llama_cpp)
            self._measure_prefill(min(PROMPT, longest))
            for context in lengths:
                self._measure_decode(context)
                if context == lengths[0]:
                    self._measure_rows(context)
        finally:
            for worker in self._workers.values():
                worker.close()

    def _measure_prefill(self, tokens: int) -> None:
        found = self._take_turns(
            f"prefill of {tokens:,} tokens",
            {
                "ours": lambda: self._ours.prefill(tokens),
                "limits": lambda: self._sample_limits("read", "products"),
                "llama.cpp": lambda: self._workers["llama.cpp"].ask(what="prefill", tokens=tokens),
            },
        )
        seconds, of_limit = found["ours"], None
        if samples := found.get("limits"):
            speed = MachineSpeed(**_medians(samples))
            of_limit = self._work.prefill_seconds(tokens, speed) / statistics.median(seconds)
        self.results.prefill = Speed(tokens, tokens, seconds, found.get("llama.cpp", []), of_limit)

    def _measure_decode(self, context: int) -> None:
        passes = self._passes
        found = self._take_turns(
            f"decode after {context:,} tokens",
            {
                "ours": lambda: self._ours.decode(context, passes),
                "limits": lambda: self._sample_limits("read"),
                "llama.cpp": lambda: self._workers["llama.cpp"].ask(
                    what="decode", context=context, passes=passes
                ),
            },
        )
        seconds, of_limit = _joined(found["ours"]), None
        if samples := found.get("limits"):
            read = self._work.decode_bytes(context + passes // 2)
            of_limit = read / _medians(samples)["read"] / statistics.median(seconds)
        theirs = _joined(found.get("llama.cpp", []))
        self.results.decode.append(Speed(context, 1, seconds, theirs, of_limit))

    def _measure_rows(self, context: int) -> None:
        rows, passes = min(_ROWS, self._passes), self._passes
        found = self._take_turns(
            f"passes of {rows} rows",
            {
                "ours": lambda: self._ours.decode(context, passes),
                "several": lambda: self._ours.decode_rows(context, passes, rows),
            },
        )
        one, several = (statistics.median(_joined(found[name])) for name in ("ours", "several"))
        self.results.several_rows = SeveralRows(rows, context, several, one)

    def _take_turns(self, what: str, turns: Mapping[str, Turn]) -> dict[str, list[Any]]:
        """Return the results of all rounds by name, without the workers that are not there."""
        waiting = {
            name: turn
            for name, turn in turns.items()
            if name in self._workers or name not in ("limits", "llama.cpp")
        }
        results: dict[str, list[Any]] = {name: [] for name in waiting}
        for number in range(self._rounds + 1):
            about = f"round {number} of {self._rounds}" if number else "warming up"
            for name in list(waiting) if number % 2 else reversed(list(waiting)):
                self._say(f"Measuring {what}: {about} ({name})")
                try:
                    result = waiting[name]()
                except WorkerFailed as error:
                    self._leave_out(name, str(error))
                    del waiting[name], results[name]
                    continue
                if number:
                    results[name].append(result)
        return results

    def _sample_limits(self, *questions: str) -> dict[str, float]:
        """Return the speeds of the machine by name, and keep them with the results."""
        speeds: dict[str, float] = {}
        for what in questions:
            answer = self._workers["limits"].ask(what=what)
            speeds |= {what: answer} if what == "read" else answer
        for name, speed in speeds.items():
            self.results.limits.setdefault(name, []).append(speed)
        return speeds

    def _start(self, name: str, start: Callable[[], Worker]) -> None:
        self._say(f"Starting {name}")
        try:
            self._workers[name] = start()
        except WorkerFailed as error:
            self._note(f"{name}: left out, because {error}.")

    def _start_limits(self) -> Worker:
        if available_memory() < _LIMITS_BYTES:
            raise WorkerFailed("too little memory is free")
        worker = Worker("llama_cpu.bench.limits_worker", {"threads": self._plan.threads})
        self.results.ways = worker.about
        return worker

    def _start_llama_cpp(self) -> Worker:
        plan = self._plan
        options = {
            "path": str(llama_cpp_file(plan.source, plan.checkpoint.config, plan.max_seq_len)),
            "context": plan.max_seq_len,
            "threads": plan.threads,
            "prompt": self._prompt,
        }
        try:
            worker = _tried(options)
        except WorkerFailed as error:
            if "died" not in str(error):
                raise
            worker = _tried(options | {"is_plain": True})
            self._note("llama.cpp: as built here it crashes with repacked weights; run without.")
        self.results.llama_cpp = worker.about["version"]
        return worker

    def _leave_out(self, name: str, reason: str) -> None:
        self._workers.pop(name).close()
        self._note(f"{name}: left out from here on, because {reason}.")

    def _note(self, text: str) -> None:
        self.results.notes.append(text)


def llama_cpp_file(source: Path, config: ModelConfig, context: int) -> Path:
    """Return the file for llama.cpp to run. Raises WorkerFailed with the reason if it cannot."""
    if source.suffix != ".gguf":
        raise WorkerFailed("it reads GGUF files only")
    if importlib.util.find_spec("llama_cpp") is None:
        raise WorkerFailed("the module llama_cpp is not installed")
    # It may repack the weights, beside the file's own pages.
    if source.stat().st_size + config.kv_cache_bytes(context, torch.float16) > available_memory():
        raise WorkerFailed("too little memory is free beside our model")
    return source


def _tried(options: dict[str, Any]) -> Worker:
    """Start llama.cpp and run a short task, which is where it may crash. Raises WorkerFailed."""
    worker = Worker("llama_cpu.bench.llama_cpp_worker", options)
    try:
        worker.ask(what="prefill", tokens=min(64, len(options["prompt"])))
        worker.ask(what="decode", context=1, passes=2)
    except BaseException:
        worker.close()
        raise
    return worker


def prompt_ids(count: int, vocab_size: int) -> list[int]:
    """Return the token ids of a prompt without meaning, which is the same for every engine."""
    return [(300 + number * 7919) % vocab_size for number in range(count)]


def _joined(rounds: Sequence[list[float]]) -> list[float]:
    """Return the seconds of all passes of all rounds."""
    return [seconds for passes in rounds for seconds in passes]


def _medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each speed; all samples have the same names."""
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
