"""The measurements, and the rows of the table made from them."""

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.limits import Machine, decode_bytes, prefill_seconds
from benchmarks.models import ModelFiles
from benchmarks.report import Report, Row, percent, rate
from benchmarks.sides import Rounds, Side, SideFailed, opened
from benchmarks.workers.protocol import Options, Task, Times
from llama_cpu.checkpoint.base import tensor_shapes
from llama_cpu.system.memory import available_memory
from llama_cpu.weights.float32 import FLOAT32
from llama_cpu.weights.formats import format_of

DECODE = Task(prompt=100, decode=16)
PREFILL = Task(prompt=512)
LONG = Task(prompt=2000, decode=16)
FIRST_TURN = Task(prompt=1500)
SECOND_TURN = Task(prompt=1520, keep=1500)
NEW_ALONE = Task(prompt=20)
MEMORY = Task(prompt=512, decode=16)
TRIAL = Task(prompt=64, decode=2)
CONTEXT = 2112
# Memory that our process may use: a factor on the weights and the KV cache, and a constant.
PROGRAM_FACTOR, PROGRAM_BYTES = 1.03, 300e6

AGAINST_PEERS = {"decode": DECODE, "prefill": PREFILL}
KINDS = (*AGAINST_PEERS, "lookup", "long", "turn", "memory")


@dataclass(frozen=True)
class Peer:
    """Another engine: the module of its worker, and the file of a model that it reads.

    ``memory``: its measured memory for each precision, relative to the weights in float32.
    ``with_ours``: whether it is installed in our environment instead of that of the peers.
    """

    module: str
    model: Callable[[ModelFiles, str], Path]
    memory: Mapping[str, float]
    with_ours: bool = False


PEERS = {
    "llama.cpp": Peer(
        "llama_cpp",
        lambda files, precision: files.as_gguf(precision),
        {"float32": 1.1, "bf16": 0.6, "int8": 0.6},
    ),
    "CTranslate2": Peer(
        "ctranslate2",
        lambda files, precision: files.as_safetensors(),
        {"float32": 1.1, "bf16": 1.1, "int8": 1.4},
    ),
    "OpenVINO": Peer(
        "openvino",
        lambda files, precision: files.as_gguf("float16"),
        {"float32": 1.9, "bf16": 1.8, "int8": 1.0},
    ),
    "transformers": Peer(
        "transformers",
        lambda files, precision: files.as_safetensors(),
        {"float32": 1.6, "bf16": 1.1, "int8": 1.1},
        with_ours=True,
    ),
}


class Bench:
    """The state that all measurements of one run share."""

    def __init__(self, rounds: Rounds, report: Report, threads: int, python: str) -> None:
        self.rounds = rounds
        self.report = report
        self.threads = threads
        self.python = python  # interpreter of the environment with the peers
        self.missing: set[str] = set()  # peers that are not installed there
        self.machine_samples: dict[str, list[float]] = {}
        self._limits = Side("limits", Options(threads=threads))

    def close(self) -> None:
        self._limits.close()

    def take_turns(self, *turns: tuple[Side, Task]) -> tuple[Machine, list[list[Times]]]:
        """Return the machine's limits, measured as a turn of their own, and each turn's times."""
        limits, *results = self.rounds.run([(self._limits, Task(prompt=0)), *turns])
        medians = {}
        for kind in limits[0].figures:
            samples = [times.figures[kind] for times in limits]
            self.machine_samples.setdefault(kind, []).extend(samples)
            medians[kind] = statistics.median(samples)
        return Machine(**medians), results


@dataclass(frozen=True)
class Subject:
    """One model in one precision."""

    bench: Bench
    name: str
    files: ModelFiles
    precision: str

    def measure(self, kinds: Sequence[str], peers: Iterable[str]) -> None:
        """Add rows for some of KINDS, against some of PEERS."""
        shared = {kind: AGAINST_PEERS[kind] for kind in kinds if kind in AGAINST_PEERS}
        if shared:
            compared = [self._compare(peer, shared) for peer in peers]
            if not any(compared):
                self._alone(shared)
        own = {
            "lookup": self._lookup,
            "long": self._long,
            "turn": self._turn,
            "memory": self._memory,
        }
        for kind in kinds:
            if kind in own:
                own[kind]()

    def _row(self, what: str, **cells: str) -> None:
        self.bench.report.add(Row(self.name, self.precision, what, **cells))

    @contextmanager
    def _ours(self) -> Iterator[Side]:
        with opened(Side("ours", self._options(str(self.files.source)))) as side:
            yield side

    def _options(self, model: str) -> Options:
        config = asdict(self.files.config)
        return Options(model, self.precision, self.bench.threads, CONTEXT, config)

    def _peer(self, peer: Peer) -> Side:
        """Start a peer's worker and run a short task. Raises SideFailed."""
        self._require_memory(peer)
        options = self._options(str(peer.model(self.files, self.precision)))
        python = sys.executable if peer.with_ours else self.bench.python
        try:
            return _tried(Side(peer.module, options, python))
        except SideFailed as error:
            if peer.module != "llama_cpp" or "died" not in str(error):
                raise
        side = _tried(Side(peer.module, replace(options, is_plain=True), python))
        self.bench.report.note(
            f"{side.version}, {self.precision}: as built here it crashes in its code for AMX, "
            "so it was run without."
        )
        return side

    def _require_memory(self, peer: Peer) -> None:
        """Raise SideFailed if the memory does not suffice, before the system kills a process."""
        shapes = tensor_shapes(self.files.config).values()
        ours, in_float32 = (
            sum(kind.nbytes(shape) for shape in shapes)
            for kind in (format_of(self.precision), FLOAT32)
        )
        needed = peer.memory[self.precision] * in_float32
        free = available_memory() - ours - PROGRAM_BYTES
        if needed > free:
            raise SideFailed(
                f"it takes up to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free beside ours"
            )

    def _compare(self, name: str, tasks: dict[str, Task]) -> bool:
        """Add rows that compare us with one peer; return False if the peer cannot run."""
        if name in self.bench.missing:
            return False
        try:
            # The peer starts first: it may have to convert the model, which needs memory.
            with opened(self._peer(PEERS[name])) as peer, self._ours() as ours:
                self.bench.report.note(f"{name} is {peer.version}.")
                for kind, task in tasks.items():
                    share, (mine, theirs) = self._take_turns(kind, task, ours, (peer, task))
                    my_rate, their_rate = speed(kind, task, mine), speed(kind, task, theirs)
                    self._row(
                        title(kind, task),
                        ours=rate(my_rate),
                        peer=f"{rate(their_rate)} {name}",
                        ratio=f"{my_rate / their_rate:.2f}",
                        of_limit=share,
                    )
        except SideFailed as error:
            if "ModuleNotFoundError" in str(error):
                self.bench.missing.add(name)
                self.bench.report.note(f"{name} was left out ({error}).")
            else:
                self._row(f"against {name}", peer=f"none: {error}")
            return False
        return True

    def _alone(self, tasks: dict[str, Task]) -> None:
        with self._ours() as ours:
            for kind, task in tasks.items():
                share, (mine,) = self._take_turns(kind, task, ours)
                self._row(title(kind, task), ours=rate(speed(kind, task, mine)), of_limit=share)

    def _take_turns(
        self, kind: str, task: Task, ours: Side, *others: tuple[Side, Task]
    ) -> tuple[str, list[list[Times]]]:
        """Return our percentage of the machine's limit, and the times of all sides, ours first.

        Memory bandwidth changes from second to second. For decode it is therefore measured between
        the tokens of a further turn.
        """
        if kind != "decode":
            machine, results = self.bench.take_turns((ours, task), *others)
            seconds = (task.prompt - task.keep) / speed(kind, task, results[0])
            least = prefill_seconds(self.files.config, self.precision, task, machine)
            return percent(least / seconds), results
        _, results = self.bench.take_turns((ours, task), *others, (ours, replace(task, reads=True)))
        shares = [self._of_reading(task, times) for times in results.pop()]
        return percent(statistics.median(shares)), results

    def _of_reading(self, task: Task, times: Times) -> float:
        """Return the time that reading alone would take, as a fraction of a token's time."""
        context = task.prompt + task.decode // 2
        read = decode_bytes(self.files.config, self.precision, context)
        return read / times.figures["read"] / statistics.median(times.decode)

    def _lookup(self) -> None:
        """Add the row of prompt lookup.

        It combines the time of passes with this model and the number of tokens per pass that the
        demo model reaches on real text.
        """
        with opened(Side("lookup", self._options(""))) as demo:
            found = demo.run(Task(prompt=0)).figures
        drafted = replace(DECODE, rows=found["rows"])
        with self._ours() as ours:
            _, (one, several) = self.bench.take_turns((ours, DECODE), (ours, drafted))
        plain, pass_of_rows = speed("decode", DECODE, one), speed("decode", drafted, several)
        tokens_per_pass = found["tokens"] / found["passes"]
        self._row(
            f"lookup, {found['tokens']} tokens of code repeated with a name changed: "
            f"{tokens_per_pass:.2f} a pass of {found['rows']} rows, tokens/s",
            ours=rate(pass_of_rows * tokens_per_pass),
            peer=f"{rate(plain)} ours without",
            ratio=f"{pass_of_rows * tokens_per_pass / plain:.2f}",
        )

    def _long(self) -> None:
        with self._ours() as ours:
            share, (far, near) = self._take_turns("decode", LONG, ours, (ours, DECODE))
        far_rate, near_rate = speed("decode", LONG, far), speed("decode", DECODE, near)
        self._row(
            title("decode", LONG),
            ours=rate(far_rate),
            peer=f"{rate(near_rate)} ours after {DECODE.prompt}",
            ratio=f"{far_rate / near_rate:.2f}",
            of_limit=share,
        )

    def _turn(self) -> None:
        new = SECOND_TURN.prompt - SECOND_TURN.keep
        with self._ours() as ours, self._ours() as other:
            ours.run(FIRST_TURN)
            share, (kept, alone) = self._take_turns(
                "prefill", SECOND_TURN, ours, (other, NEW_ALONE)
            )
        seconds, least = (
            statistics.median(one.prefill for one in times) for times in (kept, alone)
        )
        self._row(
            f"first token of a second turn ({SECOND_TURN.keep:,} tokens kept, {new} new), s",
            ours=f"{seconds:.3f}",
            peer=f"{least:.3f} ours, {new} alone",
            ratio=f"{least / seconds:.2f}",
            of_limit=share,
        )

    def _memory(self) -> None:
        with self._ours() as ours:
            figures = ours.run(MEMORY).figures
        allowed = PROGRAM_FACTOR * (figures["weights"] + figures["kv_cache"]) + PROGRAM_BYTES
        self._row(
            f"peak memory ({MEMORY.prompt} tokens read, {MEMORY.decode} written), GB",
            ours=f"{figures['peak'] / 1e9:.2f}",
            peer=f"{allowed / 1e9:.2f} 1.03 x (weights + KV cache in use) + 0.3",
            ratio=f"{allowed / figures['peak']:.2f}",
        )


def _tried(side: Side) -> Side:
    try:
        side.run(TRIAL)
    except BaseException:
        side.close()
        raise
    return side


def title(kind: str, task: Task) -> str:
    if kind == "decode":
        return f"decode after {task.prompt:,} tokens, tokens/s"
    return f"prefill of {task.prompt:,} tokens, tokens/s"


def speed(kind: str, task: Task, times: list[Times]) -> float:
    """Return tokens per second: the median over all tokens (decode) or the rounds (prefill)."""
    if kind == "decode":
        return 1 / statistics.median(seconds for one in times for seconds in one.decode)
    return (task.prompt - task.keep) / statistics.median(one.prefill for one in times)
