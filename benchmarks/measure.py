"""The measurements, and the rows of the table made from them."""

import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from benchmarks.limits import prefill_seconds, tensor_bytes, work
from benchmarks.models import FILE, ModelFiles
from benchmarks.peers import PEERS, Peer, Variant
from benchmarks.report import Report, Row, percent, rate
from benchmarks.sides import Rounds, Side, SideFailed, opened
from benchmarks.workers.protocol import Options, Task, Times
from llama_cpu.bench.machine_speed import MachineSpeed
from llama_cpu.system.memory import available_memory
from llama_cpu.weights.float32 import FLOAT32

DECODE = Task(prompt=100, decode=16)
PREFILL = Task(prompt=512)
LOOKUP = Task(prompt=0, decode=500)
ROWS = replace(DECODE, rows=8)
LONG_PROMPTS = (2000, 8000)
FIRST_TURN = Task(prompt=1500)
SECOND_TURN = Task(prompt=1520, keep=1500)
NEW_ALONE = Task(prompt=20)
MEMORY = Task(prompt=512, decode=16)
TRIAL = Task(prompt=64, decode=2)
CONTEXT = 2112
ROOM = 64  # tokens of the context after a long prompt
# Memory that our process may use: a factor on the weights and the KV cache, and a constant.
PROGRAM_FACTOR, PROGRAM_BYTES = 1.03, 300e6

AGAINST_PEERS = {"decode": DECODE, "prefill": PREFILL}
KINDS = (*AGAINST_PEERS, "lookup", "rows", "long", "turn", "memory")


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

    def take_turns(self, *turns: tuple[Side, Task]) -> tuple[MachineSpeed, list[list[Times]]]:
        """Return the machine's limits, measured as a turn of their own, and each turn's times."""
        limits, *results = self.rounds.run([(self._limits, Task(prompt=0)), *turns])
        self.report.note(f"The machine's limits: {self._limits.version}.")
        medians = {}
        for kind in limits[0].figures:
            samples = [times.figures[kind] for times in limits]
            self.machine_samples.setdefault(kind, []).extend(samples)
            medians[kind] = statistics.median(samples)
        return MachineSpeed(**medians), results


def subjects(bench: Bench, name: str, files: ModelFiles, precision: str) -> "list[Subject]":
    """Return what is measured of a model in one precision: one subject for each file of FILE."""
    if precision != FILE:
        return [Subject(bench, name, files, precision)]
    try:
        own = files.in_own_kinds()
    except SideFailed as error:
        bench.report.note(f"{name}, {precision} was left out: no quantized file ({error}).")
        return []
    return [Subject(bench, name, file, precision, kind) for kind, file in own.items()]


@dataclass(frozen=True)
class Subject:
    """One model in one precision. ``kind``: the quantization of its file, in the precision FILE."""

    bench: Bench
    name: str
    files: ModelFiles
    precision: str
    kind: str = ""

    @property
    def label(self) -> str:
        return f"{self.precision} {self.kind}".strip()

    def measure(self, kinds: Sequence[str], peers: Iterable[str]) -> None:
        """Add rows for some of KINDS, against some of PEERS."""
        shared = {kind: AGAINST_PEERS[kind] for kind in kinds if kind in AGAINST_PEERS}
        if shared:
            compared = [
                self._compare(peer, variant, shared)
                for peer in peers
                for variant in PEERS[peer].variants.get(self.precision, ())
            ]
            if not any(compared):
                self._alone(shared)
        own = {
            "lookup": self._lookup,
            "rows": self._rows,
            "long": self._long,
            "turn": self._turn,
            "memory": self._memory,
        }
        for kind in kinds:
            if kind in own:
                try:
                    own[kind]()
                except SideFailed as error:
                    self._row(kind, ours=f"none: {error}")

    def _row(self, what: str, **cells: str) -> None:
        self.bench.report.add(Row(self.name, self.label, what, **cells))

    @contextmanager
    def _ours(self, context: int = CONTEXT) -> Iterator[Side]:
        options = replace(self._options(str(self.files.source), self.precision), context=context)
        with opened(Side("ours", options)) as side:
            yield side

    def _options(self, model: str, precision: str) -> Options:
        return Options(model, precision, self.bench.threads, CONTEXT, asdict(self.files.config))

    def _peer(self, peer: Peer, variant: Variant) -> Side:
        """Start a peer's worker and run a short task. Raises SideFailed."""
        self._require_memory(variant)
        options = self._options(str(variant.model(self.files)), variant.name)
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

    def _require_memory(self, variant: Variant) -> None:
        """Raise SideFailed if the memory does not suffice, before the system kills a process."""
        ours = sum(tensor_bytes(self.files, self.precision).values())
        needed = variant.memory * sum(tensor_bytes(self.files, FLOAT32.label).values())
        free = available_memory() - ours - PROGRAM_BYTES
        if needed > free:
            raise SideFailed(
                f"it takes up to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free beside ours"
            )

    def _compare(self, name: str, variant: Variant, tasks: dict[str, Task]) -> bool:
        """Add rows that compare us with one peer; return False if the peer cannot run."""
        if name in self.bench.missing:
            return False
        try:
            # The peer starts first: it may have to convert the model, which needs memory.
            with opened(self._peer(PEERS[name], variant)) as peer, self._ours() as ours:
                self.bench.report.note(f"{name} is {peer.version}.")
                for kind, task in tasks.items():
                    share, (mine, theirs) = self._take_turns(kind, task, ours, (peer, task))
                    my_rate, their_rate = speed(kind, task, mine), speed(kind, task, theirs)
                    self._row(
                        title(kind, task),
                        ours=rate(my_rate),
                        peer=f"{rate(their_rate)} {name} {variant.name}",
                        ratio=f"{my_rate / their_rate:.2f}",
                        of_limit=share,
                    )
        except SideFailed as error:
            if "ModuleNotFoundError" in str(error):
                self.bench.missing.add(name)
                self.bench.report.note(f"{name} was left out ({error}).")
            else:
                self._row(f"against {name} {variant.name}", peer=f"none: {error}")
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
            least = prefill_seconds(self.files, self.precision, task, machine)
            return percent(least / seconds), results
        _, results = self.bench.take_turns((ours, task), *others, (ours, replace(task, reads=True)))
        shares = [self._of_reading(task, times) for times in results.pop()]
        return percent(statistics.median(shares)), results

    def _of_reading(self, task: Task, times: Times) -> float:
        """Return the time that reading alone would take, as a fraction of a token's time."""
        context = task.prompt + task.decode // 2
        read = work(self.files, self.precision).decode_bytes(context)
        return read / times.figures["read"] / statistics.median(times.decode)

    def _lookup(self) -> None:
        """Add the row of prompt lookup.

        It combines the time of passes with this model and the number of tokens per pass that the
        demo model reaches on real text.
        """
        with opened(Side("lookup", self._options("", self.precision))) as demo:
            found = demo.run(LOOKUP).figures
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

    def _rows(self) -> None:
        with self._ours() as ours:
            _, (one, several) = self.bench.take_turns((ours, DECODE), (ours, ROWS))
        seconds, least = (1 / speed("decode", DECODE, times) for times in (several, one))
        self._row(
            f"a pass of {ROWS.rows} rows costs {seconds / least:.2f} times one of 1 row, ms",
            ours=rate(1e3 * seconds),
            peer=f"{rate(1e3 * least)} ours, 1 row",
            ratio=f"{least / seconds:.2f}",
        )

    def _long(self) -> None:
        for prompt in LONG_PROMPTS:
            self._after(prompt)

    def _after(self, prompt: int) -> None:
        """Add the row of decode after a long prompt, which is read once and kept."""
        task = replace(DECODE, prompt=prompt, keep=prompt - 1)
        with self._ours(prompt + ROOM) as ours, self._ours() as other:
            ours.run(Task(prompt=prompt))
            share, (far, near) = self._take_turns("decode", task, ours, (other, DECODE))
        far_rate, near_rate = speed("decode", task, far), speed("decode", DECODE, near)
        self._row(
            title("decode", task),
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
